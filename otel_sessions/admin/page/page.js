// The page of the admin API: it shows what the API says every two seconds, and ends what a person agrees to.
// Whatever comes from the API is written as text, never as HTML. The token stays in this tab's sessionStorage.

const EVERY = 2000, POINTS = 150, MOST_PAGES = 10, ROWS = 50, PATIENCE = 10000, KEY = "otel-sessions-token";
const $ = id => document.getElementById(id);
const whole = number => number.toLocaleString("en");
const clock = (when = new Date()) => when.toLocaleTimeString("en-GB");
const history = [];
let config = null, goneSince = null, asked = 0, cursor = null, timer = 0;
// Answers come late: only the newest look and the newest search may show what they were told.
let newestLook = 0, newestSearch = 0, questions = Promise.resolve();

class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

async function ask(method, path, body) {
  const headers = { accept: "application/json" }, token = sessionStorage.getItem(KEY);
  if (token) headers.authorization = `Bearer ${token}`;
  if (body) headers["content-type"] = "application/json";
  const options = { method, headers, body: body && JSON.stringify(body), cache: "no-store", credentials: "omit", redirect: "error" };
  if (method === "GET") options.signal = AbortSignal.timeout(PATIENCE);
  let answer, said;
  try {
    answer = await fetch(path, options);
    said = await answer.json();
  } catch {
    throw new Refused(0, "no answer");
  }
  if (!answer.ok) throw new Refused(answer.status, said.detail ?? answer.statusText);
  return said;
}

// --- what is shown

function duration(seconds) {
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor(seconds % 3600 / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor(seconds % 86400 / 3600)} h`;
}

function secondsOf(text) {
  const parts = /^(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?$/.exec(text.trim());
  if (!parts || !text.trim()) throw new Refused(0, `“${text}” is no time; write seconds, or a time as in 90s, 5m or 2h`);
  return [86400, 3600, 60, 1].reduce((sum, unit, index) => sum + unit * Number(parts[index + 1] ?? 0), 0);
}

function element(name, text, settings = {}) {
  return Object.assign(document.createElement(name), { textContent: text ?? "" }, settings);
}

function list(id, pairs) {
  $(id).replaceChildren(...pairs.flatMap(([name, value]) => [
    element("dt", name), element("dd", typeof value === "number" ? whole(value) : value, { className: value ? "some" : "" }),
  ]));
}

const words = counts => Object.entries(counts).filter(([, count]) => count).map(([reason, count]) => `${whole(count)} ${reason}`).join(", ");
const total = counts => Object.values(counts).reduce((sum, count) => sum + count, 0);
const many = count => `${whole(count)} session${count === 1 ? "" : "s"}`;

function judge(stats, isReady) {
  const cap = config.settings.max_sessions, taken = stats.currently_active + stats.reserved;
  const missing = stats.processes.filter(one => !one.reached).length;
  if (missing) return ["bad", `${missing} of ${stats.processes.length} processes not reached`];
  if (!isReady) return ["warn", "takes no new sessions"];
  if (cap !== null && taken >= cap) return ["bad", "full: new sessions are refused"];
  if (stats.seconds_since_cleanup > 3 * config.settings.cleanup_interval) return ["bad", "cleanup is late"];
  if (cap !== null && taken >= 0.9 * cap) return ["warn", "nearly full"];
  return ["good", "all is well"];
}

function showState(level, text) {
  if ($("state").textContent !== text) $("state").textContent = text;
  $("state").dataset.level = level;
}

function showStats(stats) {
  const cap = config.settings.max_sessions, last = stats.last_cleanup;
  $("name").textContent = `of ${config.name}`;
  document.title = `${whole(stats.currently_active)} sessions of ${config.name}`;
  $("active").textContent = whole(stats.currently_active);
  $("cap").textContent = `${cap === null ? "no cap" : `of ${whole(cap)}`} · peak ${whole(stats.peak_active)}`;
  $("now").replaceChildren(...["leased", "closing", "reserved", "waiting"].map(name => {
    const group = document.createElement("div");
    group.append(element("dt", name), element("dd", whole(stats[name])));
    return group;
  }));
  list("books", [["created", stats.total_created], ["cleaned", stats.total_cleaned], ["active", stats.currently_active]]);
  list("cleaned", Object.entries(stats.cleaned_by_reason));
  list("refused", Object.entries(stats.rejected));
  list("passes", [
    ["passes", stats.cleanup_runs], ["errors", stats.cleanup_errors],
    [last ? "last pass" : "no pass yet in", `${duration(stats.seconds_since_cleanup)}${last ? " ago" : ""}`],
    ...(stats.processes.length > 1 ? [["processes reached", `${stats.processes.filter(one => one.reached).length} of ${stats.processes.length}`]] : []),
    ...(last ? [["it was", `${last.trigger}, ${last.outcome}`], ["it ended", total(last.cleaned)]] : []),
  ]);
}

function draw(cap) {
  const top = Math.max(cap ?? 0, ...history, 1), y = count => (58 - 56 * count / top).toFixed(1);
  const step = 300 / Math.max(30, history.length - 1), first = 300 - step * (history.length - 1);
  const points = history.map((count, index) => `${(first + index * step).toFixed(1)},${y(count)}`);
  $("curve").setAttribute("points", points.join(" "));
  $("area").setAttribute("points", `${first.toFixed(1)},60 ${points.join(" ")} 300,60`);
  $("cap-line").style.display = cap === null ? "none" : "";
  $("cap-line").setAttribute("y1", y(cap ?? 0));
  $("cap-line").setAttribute("y2", y(cap ?? 0));
  $("spark").setAttribute("aria-label", `active sessions: now ${history.at(-1)}, lowest ${Math.min(...history)}, highest ${Math.max(...history)}`);
  $("span").textContent = `the last ${duration(Math.max(1, history.length - 1) * EVERY / 1000)}${cap === null ? "" : "; the dashed line is the cap"}`;
}

function showRecent(ends) {
  $("recent").replaceChildren(...ends.slice(0, 30).map(end => {
    const item = document.createElement("li");
    item.append(element("code", end.fingerprint), element("span", end.reason), element("span", clock(new Date(end.ended_at)), { className: "hint" }));
    return item;
  }));
  if (!ends.length) $("recent").append(element("li", "No session has ended yet."));
}

function gone(isGone, why = "") {
  goneSince = isGone ? goneSince ?? clock() : null;
  document.body.classList.toggle("gone", isGone);
  for (const button of document.querySelectorAll("[data-acts]")) button.disabled = isGone;
  $("alarm").hidden = !isGone;
  const text = `The proxy has not answered since ${goneSince}${why}. The numbers are from before. This page goes on asking.`;
  if (isGone && $("alarm").textContent !== text) $("alarm").textContent = text;
  if (isGone) showState("bad", "no answer");
}

function showMissing(processes) {
  const missing = processes.filter(one => !one.reached).map(one => `${one.name} (${one.error})`);
  $("missing").hidden = !missing.length;
  $("missing").textContent = missing.length ? `The numbers and the list lack what these processes have: ${missing.join(", ")}.` : "";
}

function say(text) {
  $("said").textContent = text;
  $("said").hidden = !text;
}

// --- asking again and again

async function look() {
  const mine = ++newestLook;
  clearTimeout(timer);
  try {
    const settings = !config || asked++ % 15 === 0 ? await ask("GET", "v1/config") : config;
    const [stats, recent, isReady] = await Promise.all([ask("GET", "v1/stats"), ask("GET", "v1/recent"), ready()]);
    if (mine !== newestLook) return;
    config = settings;
    history.push(stats.currently_active);
    history.splice(0, history.length - POINTS);
    gone(false);
    showState(...judge(stats, isReady));
    showStats(stats);
    showMissing(stats.processes);
    draw(config.settings.max_sessions);
    showRecent(recent.ends);
    await enter();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (mine !== newestLook) return;
    if (error.status === 401) return leave();
    if (error.status === 0) gone(true);
    else if (error.status !== 429) gone(true, ` (${error.message})`);
  }
  timer = setTimeout(look, EVERY);
}

const ready = () => ask("GET", "readyz").then(() => true, error => {
  if (error.status === 503) return false;
  throw error;
});

async function enter() {
  if (!$("main").hidden) return;
  $("entrance").hidden = true;
  $("main").hidden = false;
  $("forget").hidden = !sessionStorage.getItem(KEY);
  $("token").value = "";
  await search();
}

function leave(why = sessionStorage.getItem(KEY) ? "The token is wrong. Nothing was shown." : "") {
  sessionStorage.removeItem(KEY);
  newestLook++;
  newestSearch++;
  clearTimeout(timer);
  config = null;
  history.length = 0;
  $("rows").replaceChildren();
  $("recent").replaceChildren();
  $("main").hidden = $("forget").hidden = true;
  $("entrance").hidden = false;
  gone(false);
  $("alarm").hidden = !why;
  $("alarm").textContent = why;
  showState("unknown", "token needed");
  say("");
  $("token").focus();
}

// --- the list

async function search(event) {
  event?.preventDefault();
  cursor = null;
  $("rows").replaceChildren();
  await further();
}

async function further() {
  const mine = ++newestSearch;
  await shown(async () => {
    const text = $("text").value.trim().toLowerCase(), query = new URLSearchParams({ limit: text ? 200 : ROWS });
    if ($("which").value) query.set("state", $("which").value);
    if ($("idle-for").value.trim()) query.set("idle_for", secondsOf($("idle-for").value));
    let added = 0;
    for (let pages = 0; pages < MOST_PAGES && added < ROWS; pages++) {
      if (cursor !== null) query.set("after", cursor);
      const page = await ask("GET", `v1/sessions?${query}`);
      if (mine !== newestSearch) return;
      const fitting = page.sessions.filter(one => !text || `${one.fingerprint} ${one.client ?? ""}`.toLowerCase().includes(text));
      const rows = fitting.map(row);
      $("rows").append(...rows);
      added += rows.length;
      cursor = page.next;
      if (cursor === null) break;
    }
    const count = $("rows").childElementCount;
    $("found").textContent = `${many(count)} at ${clock()}${cursor === null ? "" : "; there may be more"}`;
    $("more").hidden = cursor === null;
  });
}

function row(session) {
  const line = document.createElement("tr");
  const cell = (label, text, className = "") => {
    const made = element("td", text, { className });
    made.dataset.label = label;
    line.append(made);
  };
  cell("Session", session.fingerprint, "code whole");
  cell("Client", session.client ?? "–", "whole");
  cell("State", session.state);
  cell("Idle", session.leases ? "in use" : duration(session.idle_for), "count");
  cell("Age", duration(session.age), "count");
  cell("Uses", whole(session.message_count), "count");
  cell("Leases", whole(session.leases), "count");
  const button = element("button", "End …", { type: "button", className: "danger", disabled: goneSince !== null });
  button.dataset.acts = "";
  button.setAttribute("aria-label", `End session ${session.fingerprint}`);
  button.addEventListener("click", () => end(session, line));
  const action = element("td", "", { className: "whole" });
  action.append(button);
  line.append(action);
  return line;
}

// --- what ends sessions

function question(...words) {
  // One at a time: a dialog that was closed says so later, and would answer the question after it.
  return questions = questions.then(() => put(...words));
}

function put(text, one, all = "") {
  $("asked").textContent = text;
  $("one").textContent = one;
  $("all").textContent = all;
  $("all").hidden = !all;
  const dialog = $("question");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve => dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true }));
}

async function end(session, line) {
  const whose = session.client === null ? "" : ` of client ${session.client}`;
  const all = session.client === null ? "" : "End all of this client";
  const chosen = await question(`End session ${session.fingerprint}${whose}?`, "End this session", all);
  if (!chosen) return;
  await shown(async () => {
    const path = chosen === "all" ? `v1/sessions?${new URLSearchParams({ client: session.client })}` : `v1/sessions/${session.fingerprint}`;
    const { ended } = await ask("DELETE", path).catch(async error => {
      if (chosen === "all" && error.status === 503) await search(); // the processes that were reached have ended theirs
      throw error;
    });
    say(`${many(ended)} ended${chosen === "all" ? `, all${whose}` : `: ${session.fingerprint}`}.`);
    if (chosen === "all") await search();
    else line.remove();
    await look();
  });
}

async function cleanUp(event) {
  event.preventDefault();
  await shown(async () => {
    const limits = $("idle").value.trim() ? { max_idle_time: secondsOf($("idle").value) } : {};
    const foreseen = await ask("POST", "v1/cleanup?preview=true", limits), count = total(foreseen.cleaned);
    if (!count) return say(`A pass would end no session. It would look at ${whole(foreseen.examined)}.`);
    if (!await question(`A pass would end ${many(count)}: ${words(foreseen.cleaned)}.`, `End ${many(count)}`)) return;
    const report = await ask("POST", "v1/cleanup", limits), ended = total(report.cleaned);
    const missing = report.processes.filter(one => !one.reached).map(one => one.name);
    say(`${missing.length ? `Not reached: ${missing.join(", ")}. ` : ""}The pass ended ${many(ended)}${ended ? `: ${words(report.cleaned)}` : ""}. It was a ${report.outcome}.`);
    await search();
    await look();
  });
}

async function shown(action) {
  try {
    await action();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    if (error.status === 401) leave();
    else say(error.status === 0 && error.message === "no answer" ? "The proxy did not answer; it may have done what you asked." : error.message);
  }
}

$("entrance").addEventListener("submit", event => {
  event.preventDefault();
  const token = $("token").value.trim();
  if (!/^[\x21-\x7e]+$/.test(token)) return leave("A token has visible ASCII characters and no spaces.");
  $("alarm").hidden = true;
  sessionStorage.setItem(KEY, token);
  look();
});
$("forget").addEventListener("click", () => leave(""));
$("search").addEventListener("submit", search);
$("more").addEventListener("click", further);
$("cleanup").addEventListener("submit", cleanUp);
look();
