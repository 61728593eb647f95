// Line charts that fit into a table.

import { svg } from "./dom.js";

const [WIDTH, HEIGHT] = [160, 24];

/** Returns a line through points [x, y], with gaps where y is null. The y axis starts at 0. */
export function chart(points) {
  const [first, last] = [points[0][0], points.at(-1)[0]];
  const highest = Math.max(...points.map(([, y]) => y ?? 0)) || 1;
  const place = ([x, y]) => [((x - first) / (last - first || 1)) * WIDTH, HEIGHT - 1 - (y / highest) * (HEIGHT - 2)];
  let path = "";
  let isDown = false;
  for (const point of points) {
    if (point[1] === null) {
      isDown = false;
      continue;
    }
    const [x, y] = place(point).map((number) => number.toFixed(1));
    path += isDown ? `L${x} ${y}` : `M${x} ${y}h0.01`;
    isDown = true;
  }
  return svg("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" }, svg("path", { d: path }));
}
