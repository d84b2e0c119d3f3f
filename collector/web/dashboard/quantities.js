// Decides which fields a chart can show, and which of them share an axis.
import { named, unit } from "./format.js";

const NUMBERS = new Set(["f32", "f64", "i64", undefined]);
const PLACES = new Set(["latitude", "longitude"]); // in degrees like an angle, but never on the same axis
const READ = 4;
const LONGEST = 26; // letters of the names on a button

export const isNumber = (field) => NUMBERS.has(field?.t);

/** {name: field} of the fields that a chart of quantities can show. */
export function numbers(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, field]) => isNumber(field)));
}

/** [[group, [field]]]: an axis has one quantity. Places come last, because a track shows them better. */
export function groupsOf(fields) {
  const groups = new Map();
  for (const [name, field] of Object.entries(fields)) {
    const key = groupOf(name, field);
    groups.set(key, [...(groups.get(key) ?? []), name]);
  }
  return [...groups].sort(([a], [b]) => PLACES.has(a) - PLACES.has(b));
}

export const groupOf = (name, field) => (PLACES.has(name) ? name : unit(field.unit));

/** How many decimals are shown: a float from a car's bus has six, and only places need them. */
export const decimalsOf = (name, field) => (field.dec > READ && !PLACES.has(name) ? READ : field.dec);

/** The label of a group: the word that its names share, else the names, with the unit of its first field. */
export function title(names, field) {
  return named(shared(names) || listed(names), field.unit);
}

function shared(names) {
  if (names.length === 1) return names[0];
  const words = names.map((name) => name.split("_"));
  const last = words[0].at(-1);
  if (words.every((each) => each.length > 1 && each.at(-1) === last)) return last;
  const first = words[0][0];
  return words.every((each) => each.length > 1 && each[0] === first) ? first : "";
}

function listed(names) {
  const all = names.join(", ");
  return all.length <= LONGEST ? all : `${names[0]}, … (${names.length})`;
}
