// The services view: health, models, and charts of the last minutes from the metrics. Only this page keeps the samples;
// the gateway stores none.

import { get } from "./api.js";
import { chart } from "./chart.js";
import { h, show } from "./dom.js";
import { count, mebibytes, short, time } from "./words.js";

const EVERY_MS = 2000;
const KEPT = 150;
const readings = [];

/** The charts of each service: label, how to compute a point from two readings, how to format it. */
const LINES = [
  ["calls per second", (now, before, s) => rate(now, before, s, "grpc_server_handled_total"), short],
  ["call duration", (now, before) => mean(now, before, "grpc_server_handling_seconds"), time],
  ["queue wait", (now, before) => mean(now, before, "sluice_queue_seconds"), time],
  ["calls in progress", (now) => total(now, "sluice_calls_in_flight"), count],
  ["rejections per second", (now, before, s) => rate(now, before, s, "sluice_refused_total"), short],
  ["CPU use", (now, before, s) => rate(now, before, s, "process_cpu_seconds_total"), (cores) => `${Math.round(100 * cores)} %`],
  ["memory", (now) => total(now, "process_resident_memory_bytes"), mebibytes],
];

/** Fills `main` with the services, and refreshes them until the view changes. */
export async function servicesView(main, _values, _known, signal) {
  while (!signal.aborted) {
    const system = await get("/services", { signal });
    readings.push({ at: performance.now() / 1000, metrics: system.metrics });
    readings.splice(0, readings.length - KEPT);
    const hasMetrics = Object.keys(system.metrics).length > 0;
    show(
      main,
      h("h1", {}, "Services"),
      h("div", { class: "cards" }, system.services.map(card)),
      hasMetrics ? null : h("p", { class: "fine" }, "No charts. Start the gateway with --scrape NAME=HOST:PORT for each metrics endpoint."),
    );
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

function card(service) {
  const isServing = service.health === "SERVING";
  return h(
    "section",
    { class: "card", "data-testid": "service" },
    h("h2", {}, service.name, h("span", { class: `health ${isServing ? "ok" : "bad"}` }, service.health.toLowerCase().replace("_", " "))),
    service.models.map((model) =>
      h(
        "p",
        { class: "model", title: `digest ${model.digest}` },
        h("b", {}, `${model.name}@${model.version}`),
        ` ${model.variant}, ${model.execution_provider.replace("ExecutionProvider", "")}, ${count(model.max_token_count)} tokens `,
        h("small", {}, model.digest.slice(0, 8)),
      ),
    ),
    lines(service.name),
  );
}

function lines(name) {
  const own = readings.filter((one) => one.metrics[name]);
  const drawn = LINES.flatMap(([label, value, said]) => {
    const points = own.slice(1).map((one, i) => [one.at, value(one.metrics[name], own[i].metrics[name], one.at - own[i].at)]);
    const known = points.filter(([, y]) => y !== null);
    if (!known.length) return [];
    return [h("dt", {}, label), h("dd", { class: "now" }, said(known.at(-1)[1])), h("dd", {}, chart(points))];
  });
  return drawn.length ? h("dl", {}, drawn) : null;
}

/** Returns the sum over all labels, without the calls of this page; null if there is no such metric. */
function total(samples, name) {
  const found = samples.filter((one) => one.name === name && one.labels.grpc_method !== "ListModels");
  return found.length ? found.reduce((sum, one) => sum + one.value, 0) : null;
}

function difference(now, before, name) {
  const [after, then] = [total(now, name), total(before, name)];
  return after === null || then === null || after < then ? null : after - then;
}

function rate(now, before, seconds, name) {
  const more = difference(now, before, name);
  return more === null ? null : more / seconds;
}

function mean(now, before, name) {
  const [sum, number] = [difference(now, before, `${name}_sum`), difference(now, before, `${name}_count`)];
  return number ? sum / number : null;
}
