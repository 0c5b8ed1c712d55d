// The page of headwater serve. Texts of models, documents and people come from strangers: they are only ever put on the page
// as text nodes, and what misleads the eye is shown as its escape.
"use strict";

const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200e\u200f\u2028\u2029\u202a-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb]/g;
const visible = (text) => String(text).replace(UNSEEN, (one) => "\\u" + one.charCodeAt(0).toString(16).padStart(4, "0"));
const $ = (id) => document.getElementById(id);
const number = (value) => Number(value).toLocaleString("en-US");
const SVG = "http://www.w3.org/2000/svg";

/** An element with properties and children; strings become text. */
function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("aria-") || ["role", "dir", "tabindex", "scope"].includes(name)) made.setAttribute(name, value);
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made[name] = value;
  }
  made.append(...children.filter((child) => child !== null).map((child) => (child instanceof Node ? child : visible(child))));
  return made;
}

/** A web address as a link that tells nothing of where it was clicked; anything else as text. */
function link(address) {
  return /^https?:\/\//i.test(address)
    ? make("a", { href: address, target: "_blank", rel: "noopener noreferrer" }, address)
    : document.createTextNode(visible(address));
}

function facts(pairs) {
  const told = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return make("dl", { class: "facts" }, ...told.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value instanceof Node ? value : String(value)))));
}

function table(caption, header, rows, words = 1) {
  const kind = (place) => (place < words ? "word" : "number");
  const cell = (value, place) => make("td", { class: kind(place) }, value instanceof Node ? value : String(value));
  return make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", {},
      make("caption", {}, caption),
      make("thead", {}, make("tr", {}, ...header.map((name, place) => make("th", { scope: "col", class: kind(place) }, name)))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell))))));
}

// ------------------------------------------------------------------------------------------------------------ asking

class Problem extends Error {}

function complain(error) {
  const box = $("problem");
  if (error === null) { box.hidden = true; return; }
  if (error.name === "AbortError") return;
  box.replaceChildren(error instanceof Problem ? visible(error.message) : "the app does not answer: is headwater serve still running?");
  box.hidden = false;
  if (!(error instanceof Problem)) console.warn(String(error));
}

async function ask(name, body, signal) {
  const request = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch("/api/" + name, { ...request, signal });
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({ problem: answer.statusText }));
    throw new Problem(told.problem + (told.hint ? ". " + told.hint : ""));
  }
  return answer;
}
const get = async (name, body) => (await ask(name, body)).json();

/** The events of an answer that goes on: a JSON object a line. */
async function* events(name, body, signal) {
  const answer = await ask(name, body, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let begun = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    const lines = (begun + value).split("\n");
    begun = lines.pop();
    for (const line of lines) yield JSON.parse(line);
  }
}

/** Do what a form asks for, once at a time, with its Stop button. */
function onSubmit(form, work) {
  const stop = form.querySelector(".stop"), main = form.querySelector(".main"), told = form.querySelector(".told");
  let running = null;
  if (stop) stop.addEventListener("click", () => running && running.abort());
  form.addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit(); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    complain(null);
    main.disabled = true;
    if (stop) stop.hidden = false;
    told.textContent = "";
    try {
      await work(running.signal, (text) => { told.textContent = text; });
    } catch (error) {
      told.textContent = error.name === "AbortError" ? "stopped" : "";
      complain(error);
    }
    running = null;
    main.disabled = false;
    if (stop) stop.hidden = true;
  });
}

// ------------------------------------------------------------------------------------------------------------ texts

let state = null;

function samplingOf(form) {
  const value = (name) => { const text = form.querySelector(`[name=${name}]`)?.value ?? ""; return text === "" ? undefined : Number(text); };
  const names = ["max_new_tokens", "temperature", "top_p", "min_p", "repetition_penalty", "seed"];
  const chosen = Object.fromEntries(names.map((name) => [name, value(name)]).filter(([, one]) => one !== undefined));
  return { ...chosen, top_k: value("top_k") || null };
}

/** A text as it grows: the prompt, what a model writes, and later where it stands in training documents. */
class Text {
  constructor(title, prompt) {
    this.prompt = prompt;
    this.written = "";
    this.title = make("span", {}, title);
    this.heading = make("h3", {}, this.title);
    this.output = make("span", {});
    this.body = make("pre", { class: "text", dir: "auto", tabindex: "0", "aria-label": "text of " + title }, make("span", { class: "given" }, prompt), this.output);
    this.below = make("div", {});
    this.box = make("div", {}, this.heading, this.body, this.below);
  }

  add(text) {
    this.written += text;
    this.output.append(visible(text));
    this.body.scrollTop = this.body.scrollHeight;
  }

  name(label, model) {
    this.title.textContent = visible(label);
    const where = state.models[model].trace;
    if (where.why) {
      this.below.append(make("p", { class: "remark" }, "Not traced: " + where.why));
      return;
    }
    const button = make("button", { type: "button", class: "small trace" }, "Trace");
    button.title = "Find where this text stands in the training documents of " + where.run;
    button.addEventListener("click", () => this.trace(model, button));
    this.heading.append(button);
  }

  async trace(model, button) {
    button.disabled = true;
    complain(null);
    try {
      const found = await get("trace", { model, text: this.prompt + this.written });
      this.body.replaceChildren(...this.pieces(found));
      const count = found.matches.length;
      this.below.replaceChildren(make("p", { class: "remark" }, count
        ? `${count === 1 ? "1 run of 8 words or more stands" : number(count) + " runs of 8 words or more stand"} in the ${number(found.documents)} training documents of ${found.run}. Click ${count === 1 ? "it" : "one"}.`
        : `No 8 words in a row stand in the ${number(found.documents)} training documents of ${found.run}.`));
      button.remove();
    } catch (error) {
      button.disabled = false;
      complain(error);
    }
  }

  pieces(found) {
    let left = this.prompt.length;
    return found.pieces.map((piece) => {
      const given = piece.text.length <= left;
      left -= piece.text.length;
      if (!piece.matches.length) return make("span", { class: given ? "given" : "" }, piece.text);
      const mark = make("mark", { class: "found", role: "button", tabindex: "0", "aria-expanded": "false" }, piece.text);
      const show = () => this.origins(mark, piece.matches.map((place) => found.matches[place]));
      mark.addEventListener("click", show);
      mark.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); show(); } });
      return mark;
    });
  }

  origins(mark, matches) {
    const open = mark.getAttribute("aria-expanded") === "true";
    this.below.querySelectorAll(".origin").forEach((old) => old.remove());
    this.body.querySelectorAll("mark").forEach((old) => old.setAttribute("aria-expanded", "false"));
    if (open) return;
    mark.setAttribute("aria-expanded", "true");
    this.below.append(...matches.map(origin));
  }
}

function origin(match) {
  const places = match.count === 1 ? "1 place" : number(match.count) + " places";
  const more = match.documents - match.sources.length;
  return make("div", { class: "origin" },
    make("p", {}, `${match.words} words, in ${places}:`),
    ...match.sources.map((source) => make("div", { class: "place" },
      facts([["document", source.id], ["source", source.source], ["url", source.url && link(source.url)],
        ["licence", source.licence || "not known"], ["read by", readBy(source)]]),
      make("pre", { dir: "auto" }, source.before, make("mark", {}, match.text), source.after))),
    more > 0 ? make("p", { class: "remark" }, `and ${number(more)} more documents`) : null);
}

function readBy(source) {
  if (source.steps === null) return null;
  if (!source.step_count) return "no training step";
  const more = source.step_count - Math.min(source.steps.length, 5);
  return "training step " + source.steps.slice(0, 5).map(number).join(", ") + (more > 0 ? ` and ${number(more)} more` : "");
}

/** Let texts grow by the events of an answer; returns whether all were written to their end. */
async function grow(name, body, signal, texts, tell, seen = () => {}) {
  tell("writing");
  for await (const event of events(name, body, signal)) {
    seen(event);
    if (event.text) { texts[event.place].add(event.text); tell("writing"); }
    if (event.waiting) tell("waiting for the texts of other requests");
    if (event.remark) texts[0].box.parentElement.after(make("p", { class: "remark" }, event.remark));
    if (event.problem) throw new Problem(event.problem);
    if (event.done) { tell(`${event.seconds.toFixed(1)} s`); return event; }
  }
  throw new Problem("the answer broke off");
}

function clear(place) {
  while (place.nextElementSibling?.classList.contains("remark")) place.nextElementSibling.remove();
  place.replaceChildren();
}

function setUpWriting() {
  const form = $("write-form"), place = $("write-texts");
  $("write-models").append(...state.models.map((model, index) => {
    const box = make("input", { type: "checkbox", value: String(index), checked: index < state.limits.models });
    const step = model.step === null ? "" : `, step ${number(model.step)}`;
    return make("label", {}, box, make("span", {}, model.label, " ", make("span", { class: "muted" }, `${number(model.parameters)} parameters${step}`)));
  }));
  onSubmit(form, async (signal, tell) => {
    const models = [...form.querySelectorAll("#write-models input:checked")].map((box) => Number(box.value));
    if (!models.length) throw new Problem("choose a model");
    const prompt = $("write-prompt").value.replace(/ +$/, "");
    const texts = models.map((model) => new Text(state.models[model].label, prompt));
    clear(place);
    place.append(...texts.map((text) => text.box));
    const done = await grow("write", { models, prompt, sampling: samplingOf(form) }, signal, texts, tell);
    texts.forEach((text, index) => {
      text.heading.append(make("span", { class: "muted" }, `${number(done.tokens[index])} tokens`));
      text.name(state.models[models[index]].label, models[index]);
    });
  });
}

function setUpVoting() {
  const form = $("blind-form"), place = $("blind-texts"), votes = $("blind-votes"), told = $("blind-told");
  let ballot = null, texts = [];
  form.querySelector(".seed").remove(); // every ballot has a seed of its own
  onSubmit(form, async (signal, tell) => {
    votes.hidden = true;
    told.replaceChildren();
    const prompt = $("blind-prompt").value.replace(/ +$/, "");
    texts = [new Text("Left", prompt), new Text("Right", prompt)];
    clear(place);
    place.append(...texts.map((text) => text.box));
    const seed = crypto.getRandomValues(new Uint32Array(1))[0];
    const sampling = { ...samplingOf(form), seed };
    await grow("battle", { prompt, sampling }, signal, texts, tell, (event) => { ballot = event.ballot ?? ballot; });
    votes.hidden = false;
  });
  votes.addEventListener("click", async (event) => {
    const choice = event.target.dataset.choice;
    if (!choice || votes.hidden) return;
    votes.hidden = true;
    complain(null);
    try {
      const { models, labels, votes: count } = await get("vote", { ballot, choice });
      texts.forEach((text, index) => text.name(labels[index], models[index]));
      const said = { left: `${labels[0]} was better than ${labels[1]}`, right: `${labels[1]} was better than ${labels[0]}`, tie: `${labels[0]} and ${labels[1]} were as good` };
      told.append(visible(`${said[choice]}: ${count === 1 ? "1 vote" : number(count) + " votes"} kept. `), make("a", { href: "#ranking" }, "Ranking"));
    } catch (error) {
      votes.hidden = false;
      complain(error);
    }
  });
}

// ------------------------------------------------------------------------------------------------------------ browsing

function band(row, low, high) {
  const at = (value) => 100 * (value - low) / (high - low || 1);
  const drawing = document.createElementNS(SVG, "svg");
  const line = document.createElementNS(SVG, "line"), dot = document.createElementNS(SVG, "circle");
  for (const [name, value] of [["x1", at(row.low) + "%"], ["x2", at(row.high) + "%"], ["y1", "50%"], ["y2", "50%"]]) line.setAttribute(name, value);
  for (const [name, value] of [["cx", at(row.rating) + "%"], ["cy", "50%"], ["r", "4"]]) dot.setAttribute(name, value);
  drawing.append(line, dot);
  return make("span", { class: "band", role: "img", "aria-label": `${Math.round(row.low)} to ${Math.round(row.high)}` }, drawing);
}

async function showRanking() {
  const { votes, file, rows } = await get("ranking");
  const body = $("ranking-body");
  if (!rows.length) { body.replaceChildren(make("p", {}, "No votes yet: a ", make("a", { href: "#blind" }, "blind vote"), " is the first.")); return; }
  const low = Math.min(...rows.map((row) => row.low)), high = Math.max(...rows.map((row) => row.high));
  const rank = (row) => (row.rank_low === row.rank_high ? String(row.rank_low) : `${row.rank_low} to ${row.rank_high}`);
  body.replaceChildren(
    table("Strength by blind votes", ["model", "rating", "95 %", "", "place", "won", "lost", "tied"], rows.map((row) => [
      row.label + (row.here ? "" : ` (not open now, ${row.weights.slice(0, 6)})`), String(Math.round(row.rating)),
      `${Math.round(row.low)} to ${Math.round(row.high)}`, band(row, low, high), rank(row), row.won, row.lost, row.tied])),
    make("p", { class: "muted" }, `${votes === 1 ? "1 vote" : number(votes) + " votes"} in ${file}. Bradley-Terry strengths on Elo's scale: 1000 is the mean of these models, 400 points more win ten times as often as they lose; a tie is half a vote for each. The band holds 95 % of 1,000 drawings of as many votes; models whose bands overlap much are not told apart yet.`));
}

async function showRuns() {
  const runs = await get("runs");
  $("runs-body").replaceChildren(...(runs.length ? runs.map(oneRun) : [make("p", {}, "There are no runs in this folder yet.")]));
}

function oneRun(run) {
  const numbers = run.numbers ?? {}, bits = numbers.final_validation_bits_per_byte?.total;
  const count = (value) => (typeof value === "number" ? number(value) : null);
  const links = run.pages.map((page) => make("a", { href: `/runs/${encodeURIComponent(run.name)}/${page}`, target: "_blank", rel: "noopener" }, page === "report" ? "Report" : "Checkpoints"));
  const look = make("a", { href: "#documents", onclick: () => { $("documents-run").value = run.name; } }, "Documents");
  return make("article", { class: "run" },
    make("h3", {}, run.name, ...links, run.documents ? look : null),
    facts([["documents", count(numbers.documents_out)], ["parameters", count(numbers.parameters)], ["steps", count(numbers.steps)],
      ["tokens", count(numbers.tokens)], ["bits per byte", typeof bits === "number" ? bits.toFixed(3) : null]]),
    make("p", { class: "muted" }, run.problem ?? `Finished: ${(run.stages ?? []).join(", ") || "nothing yet"}. ${run.index ? "Texts can be traced." : "No index: texts cannot be traced (headwater index " + run.name + ")."}`));
}

async function showScores() {
  const found = await get("scores");
  const tell = (one) => make("article", {},
    make("h3", {}, one.name, make("span", { class: "muted" }, one.kind === "trajectory" ? "checkpoints, by headwater watch" : "headwater evaluate")),
    one.problem ? make("p", { class: "notice" }, one.problem) : null,
    ...one.tables.map((of) => table(of.caption, of.header, of.rows, one.kind === "trajectory" ? 0 : of.caption === "Tasks" ? 2 : 1)));
  const none = make("p", {}, "No scores in this folder yet: headwater evaluate and headwater watch write some.");
  $("scores-body").replaceChildren(...(found.length ? found.map(tell) : [none]));
}

async function showDocuments() {
  const chosen = $("documents-run").value;
  const runs = (await get("runs")).filter((run) => run.documents);
  $("documents-run").replaceChildren(...runs.map((run) => make("option", { value: run.name }, run.name)));
  if (chosen) $("documents-run").value = chosen;
}

function setUpDocuments() {
  const value = (name) => $("documents-" + name).value;
  onSubmit($("documents-form"), async (signal, tell) => {
    tell("reading");
    const search = { run: value("run"), count: Number(value("count")), seed: Number(value("seed")) };
    for (const name of ["fate", "rule", "source", "text", "id"]) if (value(name)) search[name] = value(name);
    const found = await (await ask("documents", search, signal)).json();
    tell("");
    $("documents-body").replaceChildren(
      make("p", {}, `${number(found.fitting)} documents fit; ${number(found.documents.length)} of them, drawn at random:`),
      ...found.documents.map(oneDocument),
      make("details", {}, make("summary", {}, "All documents, by what became of them"), make("div", { class: "folded" },
        table("Documents", ["stage", "what became of them", "source", "documents"], found.summary.map((row) => [...row.slice(0, 3), number(row[3])]), 3))));
  });
}

function oneDocument(one) {
  const measured = one.value === null || one.value === undefined ? "" : `, measured ${Number(one.value.toPrecision(4))}`;
  const limit = one.threshold === null || one.threshold === undefined ? "" : `, limit ${Number(one.threshold.toPrecision(4))}`;
  const fate = one.fate === "dropped" ? `dropped by ${one.stage}: ${one.rule}${measured}${limit}${one.detail ? ", " + one.detail : ""}` : "kept";
  const more = one.characters - [...one.text].length;
  return make("article", { class: "document" },
    facts([["fate", fate], ["source", one.source], ["url", one.url && link(one.url)], ["licence", one.licence], ["language", one.language], ["id", one.id]]),
    make("pre", { class: "text", dir: "auto", tabindex: "0", "aria-label": "text of a document" }, one.text),
    more > 0 ? make("p", { class: "remark" }, `and ${number(more)} more characters; search for its id to see all`) : null);
}

// ------------------------------------------------------------------------------------------------------------ the page

const SHOWN = { ranking: showRanking, runs: showRuns, scores: showScores, documents: showDocuments };

async function show() {
  const names = [...document.querySelectorAll("main > section")].map((section) => section.id);
  const name = names.includes(location.hash.slice(1)) ? location.hash.slice(1) : state.models.length ? "write" : "runs";
  for (const other of names) $(other).hidden = other !== name;
  for (const one of document.querySelectorAll("nav a")) {
    if (one.hash === "#" + name) one.setAttribute("aria-current", "page");
    else one.removeAttribute("aria-current");
  }
  complain(null);
  await SHOWN[name]?.().catch(complain);
}

async function begin() {
  state = await get("state");
  $("made").textContent = `Headwater ${state.version}. Nothing on this page is sent anywhere but to the program that serves it.`;
  for (const form of [$("write-form"), $("blind-form")]) {
    form.append($("sampling").content.cloneNode(true));
    for (const input of form.querySelectorAll(".sampling input")) input.value = state.sampling[input.name] ?? 0;
    form.querySelector("[name=max_new_tokens]").max = state.limits.tokens;
    form.querySelector("textarea").maxLength = state.limits.characters;
  }
  const none = "headwater serve was started without models; such as: headwater serve demo@0 demo";
  const few = "A blind vote needs two models whose weights differ, such as: headwater serve demo@0 demo";
  if (!state.models.length) $("write-form").replaceWith(make("p", {}, none));
  else setUpWriting();
  if (!state.blind) $("blind-form").replaceWith(make("p", { class: "muted" }, few));
  else setUpVoting();
  setUpDocuments();
  addEventListener("hashchange", show);
  await show();
}

begin().catch(complain);
