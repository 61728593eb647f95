// Formatting of numbers, and marking of search terms in texts.

const whole = new Intl.NumberFormat("en");
const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

/** Formats a whole number: 12,345. */
export const count = (number) => whole.format(number);

/** Formats a number with three significant digits: 0.977, 12.3. */
export const short = (number) => small.format(number);

/** Formats a duration: "3.2 ms", "1.4 s". */
export function time(seconds) {
  return seconds < 1 ? `${short(seconds * 1000)} ms` : `${short(seconds)} s`;
}

/** Formats a size: "90 MiB". */
export const mebibytes = (bytes) => `${bytes < 2 ** 23 ? short(bytes / 2 ** 20) : count(Math.round(bytes / 2 ** 20))} MiB`;

/** Formats a rank: 1st, 2nd, 3rd, 4th, 11th. */
export function ordinal(number) {
  const teen = number % 100 > 10 && number % 100 < 14;
  return count(number) + ((!teen && { 1: "st", 2: "nd", 3: "rd" }[number % 10]) || "th");
}

const COMMON = new Set(
  ("a an and are as at be by can do does for from has have how i if in is it of on or that the there this to was what " +
    "when where which who why will with you your").split(" "),
);

/** Returns the words of a query that are marked in results, in lower case, without common words. */
export function terms(query) {
  const found = query.toLowerCase().match(/[\p{L}\p{N}_]{2,}/gu) ?? [];
  return [...new Set(found.filter((word) => !COMMON.has(word)))];
}

/** Splits a text into [piece, isHit]. Hits are words that begin with a term, without the ending of the term. */
export function pieces(text, wanted) {
  const stems = wanted.map((term) => (term.length > 4 ? term.replace(/(ing|ed|es|s)$/, "") : term));
  return text
    .split(/([\p{L}\p{N}_]+)/u)
    .map((piece, i) => [piece, i % 2 === 1 && stems.some((stem) => piece.toLowerCase().startsWith(stem))])
    .filter(([piece]) => piece);
}

/** Returns the passage of about `length` characters with the most different hits, on one line. */
export function passage(whole, wanted, length = 300) {
  const text = whole.trim().replace(/\s+/g, " ");
  if (text.length <= length) return text;
  const hits = [];
  let position = 0;
  for (const [piece, isHit] of pieces(text, wanted)) {
    if (isHit) hits.push([position, piece.toLowerCase()]);
    position += piece.length;
  }
  const worth = (start) =>
    new Set(hits.filter(([at]) => at >= start && at < start + length * 0.8).map(([, word]) => word)).size;
  const best = hits.reduce((chosen, [at]) => (worth(at) > worth(chosen) ? at : chosen), 0);
  const from = best < 60 ? 0 : text.indexOf(" ", best - 40) + 1;
  const to = from + length >= text.length ? text.length : Math.max(text.lastIndexOf(" ", from + length), from + 40);
  return (from ? "… " : "") + text.slice(from, to) + (to < text.length ? " …" : "");
}
