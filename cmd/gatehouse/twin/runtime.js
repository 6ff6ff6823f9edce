// What the module needs beside the checks of its schemas. The builder puts this
// text before them.

/** How many characters a text has: one for each pair of surrogates. */
function characters(text) {
  let n = text.length;
  for (let i = 0; i + 1 < text.length; i++) {
    if ((text.charCodeAt(i) & 0xfc00) === 0xd800 && (text.charCodeAt(i + 1) & 0xfc00) === 0xdc00) {
      n--;
      i++;
    }
  }
  return n;
}

/** Whether two values of JSON are the same. */
function equal(a, b) {
  if (a === b) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null || Array.isArray(a) !== Array.isArray(b)) return false;
  const names = Object.keys(a);
  return names.length === Object.keys(b).length && names.every((name) => Object.hasOwn(b, name) && equal(a[name], b[name]));
}

/** One text for all values of JSON that are the same. */
function canonical(value) {
  if (typeof value !== "object" || value === null) return JSON.stringify(value);
  if (Array.isArray(value)) return `[${value.map(canonical)}]`;
  return `{${Object.keys(value).sort().map((name) => JSON.stringify(name) + canonical(value[name]))}}`;
}

/** Whether no two items are the same. */
function unique(items) {
  return new Set(items.map(canonical)).size === items.length;
}

const hostname = /^[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*$/;
const ipv4 = /^(?:(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)(?:\.(?!$)|$)){4}$/;
const userinfo = /^(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*$/;
const registeredName = /^(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*$/;
const uriPath = /^(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*$/;
const uriQuery = /^(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*$/;
const dotString = /^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*$/;
const quotedString = /^"(?:[ !#-[\]-~]|\\[ -~])*"$/;

function isDate(text) {
  const m = /^(\d{4})-(\d\d)-(\d\d)$/.exec(text);
  if (!m) return false;
  const [year, month, day] = m.slice(1).map(Number);
  const leap = year % 4 === 0 && (year % 100 !== 0 || year % 400 === 0);
  return month >= 1 && month <= 12 && day >= 1 && day <= [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1];
}

function isTime(text) {
  const m = /^(\d\d):(\d\d):(\d\d)(?:\.\d+)?(?:[zZ]|([+-])(\d\d):(\d\d))$/.exec(text);
  if (!m) return false;
  const hour = +m[1], minute = +m[2], second = +m[3], hours = +(m[5] ?? 0), minutes = +(m[6] ?? 0);
  if (hour > 23 || minute > 59 || second > 60 || hours > 23 || minutes > 59) return false;
  const offset = (hours * 60 + minutes) * (m[4] === "-" ? -1 : 1);
  return second < 60 || (hour * 60 + minute - offset + 2880) % 1440 === 1439;
}

function isHostname(text) {
  if (text.length > 1 && text.endsWith(".")) text = text.slice(0, -1);
  return text.length <= 253 && hostname.test(text);
}

function isIPv6(text) {
  const halves = text.split("::");
  if (halves.length > 2) return false;
  const groups = halves.map((half) => (half === "" ? [] : half.split(":")));
  const all = groups.flat();
  let count = all.length;
  if (all.length > 0 && groups[groups.length - 1].length > 0 && all[all.length - 1].includes(".")) {
    if (!ipv4.test(all.pop())) return false;
    count++;
  }
  return all.every((group) => /^[0-9A-Fa-f]{1,4}$/.test(group)) && (halves.length === 2 ? count < 8 : count === 8);
}

function isEmail(text) {
  const at = text.lastIndexOf("@");
  if (at < 1 || at > 64 || text.length > 254) return false;
  const local = text.slice(0, at), domain = text.slice(at + 1);
  if (!(local[0] === '"' ? quotedString : dotString).test(local)) return false;
  if (domain.length > 2 && domain.startsWith("[") && domain.endsWith("]")) {
    const literal = domain.slice(1, -1);
    return /^ipv6:./i.test(literal) ? isIPv6(literal.slice(5)) : ipv4.test(literal);
  }
  return isHostname(domain);
}

function isAuthority(text) {
  const at = text.lastIndexOf("@");
  if (at >= 0 && !userinfo.test(text.slice(0, at))) return false;
  const host = text.slice(at + 1);
  if (host.startsWith("[")) {
    const end = host.indexOf("]");
    const literal = host.slice(1, Math.max(end, 0));
    const known = /^[vV]/.test(literal) ? /^.[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+$/.test(literal) : isIPv6(literal);
    return end >= 0 && known && /^(?::\d*)?$/.test(host.slice(end + 1));
  }
  const colon = host.indexOf(":");
  return colon < 0 ? registeredName.test(host) : registeredName.test(host.slice(0, colon)) && /^\d*$/.test(host.slice(colon + 1));
}

function isHierarchy(text) {
  const hash = text.indexOf("#");
  if (hash >= 0) {
    if (!uriQuery.test(text.slice(hash + 1))) return false;
    text = text.slice(0, hash);
  }
  const query = text.indexOf("?");
  if (query >= 0) {
    if (!uriQuery.test(text.slice(query + 1))) return false;
    text = text.slice(0, query);
  }
  if (text.startsWith("//")) {
    const slash = text.indexOf("/", 2), end = slash < 0 ? text.length : slash;
    if (!isAuthority(text.slice(2, end))) return false;
    text = text.slice(end);
  }
  return uriPath.test(text);
}

function isURI(text) {
  const scheme = /^[A-Za-z][A-Za-z0-9+.-]*:/.exec(text);
  return scheme !== null && isHierarchy(text.slice(scheme[0].length));
}

function isRegex(text) {
  try {
    new RegExp(text, "u");
    return true;
  } catch {
    return false;
  }
}

// Each checks as the node does. The builder reads the names.
const formats = {};
const matches = (pattern) => (text) => pattern.test(text);
formats["date"] = isDate;
formats["time"] = isTime;
formats["date-time"] = (text) => (text[10] === "T" || text[10] === "t") && isDate(text.slice(0, 10)) && isTime(text.slice(11));
formats["duration"] = matches(/^P(?!$)(?:\d+W|(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?!$)(?:\d+H)?(?:\d+M)?(?:\d+S)?)?)$/);
formats["email"] = isEmail;
formats["hostname"] = isHostname;
formats["ipv4"] = matches(ipv4);
formats["ipv6"] = isIPv6;
formats["uri"] = isURI;
formats["uri-reference"] = (text) => isURI(text) || (!/^[^/?#]*:/.test(text) && isHierarchy(text));
formats["uuid"] = matches(/^[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}$/);
formats["json-pointer"] = matches(/^(?:\/(?:[^~/]|~[01])*)*$/);
formats["relative-json-pointer"] = matches(/^(?:0|[1-9]\d*)(?:#|(?:\/(?:[^~/]|~[01])*)*)$/);
formats["regex"] = isRegex;

// The guards of a route that sets none.
const maxDepth = 32, maxNames = 256, maxTokens = 10000;

/** Why a value is refused whatever its schema says; null if it is not. */
function guard(value) {
  let tokens = 0;
  const loneSurrogate = /[\ud800-\udfff]/u;
  const hazardous = new Set(["__proto__", "constructor", "prototype"]);
  const look = (value, depth) => {
    if (++tokens > maxTokens) return "message_not_allowed";
    if (typeof value === "string") return loneSurrogate.test(value) ? "invalid_json" : null;
    if (typeof value === "number") { // from 1e21 on they are not written as integers
      const wide = Number.isInteger(value) && !Number.isSafeInteger(value) && Math.abs(value) < 1e21;
      return Number.isFinite(value) && !wide ? null : "message_not_allowed";
    }
    if (typeof value !== "object" || value === null) return null;
    if (depth === maxDepth) return "message_not_allowed";
    if (Array.isArray(value)) {
      for (const item of value) {
        const why = look(item, depth + 1);
        if (why) return why;
      }
      return null;
    }
    const names = Object.keys(value);
    if (names.length > maxNames) return "message_not_allowed";
    for (const name of names) {
      if (++tokens > maxTokens || hazardous.has(name)) return "message_not_allowed";
      if (loneSurrogate.test(name)) return "invalid_json";
      const why = look(value[name], depth + 1);
      if (why) return why;
    }
    return null;
  };
  return look(value, 0);
}

const refused = (reason, type = "", pointer = "", keyword = "") => ({ reason, type, pointer, keyword });

/** Why a value that JSON.parse has made is refused; null if it is not. */
function judge(value) {
  const why = guard(value);
  if (why) return refused(why);
  let type = Object.keys(validators)[0];
  if (discriminator !== null) {
    const isObject = typeof value === "object" && value !== null && !Array.isArray(value);
    type = isObject && Object.hasOwn(value, discriminator) ? value[discriminator] : null;
    if (typeof type !== "string" || !Object.hasOwn(validators, type)) return refused("message_not_allowed");
  }
  const validate = validators[type];
  if (validate(value)) return null;
  return refused("message_not_allowed", type, ...placeOf(validate.errors));
}

const step = (name) => "/" + String(name).replaceAll("~", "~0").replaceAll("/", "~1");

/** The place in the message, and the keyword that refuses it, as a node names them. */
function placeOf(errors) {
  let error = errors[errors.length - 1];
  if (error.keyword === "propertyNames") error = errors[errors.length - 2] ?? error; // what the name lacks
  let pointer = error.instancePath;
  let keyword = decodeURIComponent(error.schemaPath.replace(/^[^#]*#(?:\/\$defs\/[^/]*)?/, "")); // within its file
  switch (error.keyword) {
    case "false schema":
      keyword = keyword.slice(0, -"/false schema".length);
      break;
    case "dependentRequired":
      keyword += step(error.params.property);
      break;
    case "unevaluatedProperties":
      pointer += step(error.params.unevaluatedProperty);
      break;
    case "items":
    case "unevaluatedItems":
      pointer += step(error.params.limit);
  }
  return [pointer, keyword];
}

/** Why a node would refuse this text; null if it would not. */
export function checkText(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch {
    return refused("invalid_json");
  }
  return judge(value);
}

/** Why a node would refuse this message; null if it would not. */
export function check(message) {
  const text = JSON.stringify(message);
  return text === undefined ? refused("invalid_json") : checkText(text);
}

/** Whether a message is of this type, and a node would not refuse it. */
export function is(type, message) {
  return Object.hasOwn(validators, type) && (discriminator === null || message?.[discriminator] === type) && check(message) === null;
}

export class Refused extends Error {
  constructor(refusal) {
    const at = refusal.keyword && `: ${refusal.pointer || "the whole message"} by ${refusal.keyword}`;
    super(refusal.reason + at);
    this.name = "Refused";
    this.refusal = refusal;
  }
}

/** The text to send; throws Refused if a node would refuse it. */
export function encode(message) {
  const text = JSON.stringify(message);
  const refusal = text === undefined ? refused("invalid_json") : checkText(text);
  if (refusal) throw new Refused(refusal);
  return text;
}
