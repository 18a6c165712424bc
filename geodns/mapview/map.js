"use strict";
// Draws /map/state and asks for it again every other second while the page is seen.
(() => {
  const every = 2000, patience = 4000, svgNS = "http://www.w3.org/2000/svg";
  const by = id => document.getElementById(id);
  const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const shape = (name, attributes = {}, ...children) => fill(document.createElementNS(svgNS, name), attributes, children);
  const fill = (e, attributes, children) => {
    for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
    e.append(...children);
    return e;
  };
  const count = n => n.toLocaleString("en");
  const percent = x => Math.round(100 * x) + " %";
  const colour = i => "c" + i % 8;
  const says = { up: "up", sheds: "leaves some to others", drained: "drained", no_weight: "weight 0", down: "down" };
  const asks = { dns: "DNS", redirect: "redirects", steer: "steering", page: "pages" };

  // Arcs bend towards the pole, as the shortest ways do.
  const arc = ([x, y], [u, v]) => {
    const d = Math.hypot(u - x, v - y);
    return `M${x} ${y}Q${(x + u) / 2} ${(y + v) / 2 - d * 0.22} ${u} ${v}`;
  };
  const ring = (r, share) => {
    const a = 2 * Math.PI * Math.min(share, 0.9999);
    return `M0 ${-r}A${r} ${r} 0 ${share > 0.5 ? 1 : 0} 1 ${r * Math.sin(a)} ${-r * Math.cos(a)}`;
  };

  const draw = s => {
    const index = new Map(s.regions.map((r, i) => [r.name, i]));
    const most = Math.max(1, ...s.origins.map(o => o.count));
    const weigh = n => Math.sqrt(n / most);
    by("flows").replaceChildren(...s.origins.map(o => {
      const i = index.get(o.region);
      // Counts are of minutes: who was sent to a region that takes nobody now was so before.
      const past = ["down", "drained"].includes(s.regions[i].state) ? " past" : "";
      return shape("path", { class: colour(i) + past, d: arc(o.at, s.regions[i].at), "stroke-width": 1.5 + 4 * weigh(o.count) });
    }));
    by("cells").replaceChildren(...[...s.origins].sort((a, b) => b.count - a.count).map(o =>
      shape("circle", { class: colour(index.get(o.region)), cx: o.at[0], cy: o.at[1], r: 6 + 22 * weigh(o.count) },
        shape("title", {}, `${count(o.count)} answers to here named ${o.region}`))));
    by("regions").replaceChildren(...s.regions.map((r, i) => {
      const left = r.at[0] > 1750;
      const g = shape("g", { class: "mark" }, shape("circle", { r: 13 }));
      if (r.state === "down") g.append(shape("path", { class: "cross", d: "M-5-5L5 5M5-5L-5 5" }));
      if (r.load > 0) g.append(shape("circle", { class: "track", r: 22 }), shape("path", { class: "load", d: ring(22, r.load) }));
      g.append(shape("text", { x: left ? -32 : 32, y: 9, "text-anchor": left ? "end" : "start" }, r.name));
      return shape("g", { class: `${colour(i)} ${r.state}`, transform: `translate(${r.at[0]} ${r.at[1]})` },
        shape("title", {}, `${r.name}, ${r.place}: ${says[r.state]}`), g);
    }));
    const minutes = Math.round(s.seconds / 60);
    const sent = s.regions.reduce((n, r) => n + r.sent, 0);
    by("cards").replaceChildren(...s.regions.map((r, i) => el("article", { class: `${colour(i)} ${r.state}` },
      el("h2", {}, r.name, el("small", {}, r.place), el("span", { class: "state" }, says[r.state])),
      ...(r.why ? [el("p", { class: "why" }, r.why)] : []),
      el("dl", {},
        el("dt", {}, `answers naming it in ${minutes} min`), el("dd", {}, sent ? `${count(r.sent)} (${percent(r.sent / sent)})` : "0"),
        el("dt", {}, "takes of its own viewers"), el("dd", {}, percent(r.state === "down" || r.state === "drained" ? 0 : r.takes)),
        ...(r.load > 0 ? [el("dt", {}, "capacity in use"), el("dd", {}, percent(r.load))] : [])),
      el("ul", {}, ...[...r.edges, r.router].map(t => el("li", { class: t.up ? "" : "bad", title: t.why || (t.up ? "up" : "down") },
        t.name + (t.up && t.load > 0 ? " " + percent(t.load) : "")))))));
    by("asked").replaceChildren(el("span", {}, `Asked in the last ${minutes} minutes:`),
      ...Object.entries(asks).map(([k, name]) => el("span", {}, el("b", {}, count(s.asked[k] || 0)), " " + name)),
      el("span", {}, "from unknown places ", el("b", {}, count(s.unknown))));
    const wrong = s.regions.filter(r => r.state !== "up").map(r => `${r.name} ${says[r.state]}`);
    by("seen").textContent = `as the router in ${s.router} sees it · ` + (wrong.join(", ") || "all regions in service") +
      (s.alone ? " · no other router is heard" : "");
    by("seen").className = "";
  };

  let last = Date.now();
  const ask = async (path, read) => {
    const r = await fetch(path, { signal: AbortSignal.timeout(patience), cache: "no-store" });
    return read(r);
  };
  const turn = async () => {
    if (!document.hidden) {
      try {
        draw(await ask("/map/state", r => { if (!r.ok) throw new Error(r.statusText); return r.json(); }));
        last = Date.now();
      } catch {
        by("seen").textContent = `The router has not answered for ${Math.round((Date.now() - last) / 1000)} s; this is what it said last.`;
        by("seen").className = "lost";
      }
    }
    setTimeout(turn, every);
  };
  by("explain").addEventListener("submit", async event => {
    event.preventDefault();
    const ip = by("ip").value.trim();
    try {
      by("answer").textContent = await ask("/explain?format=line&ip=" + encodeURIComponent(ip),
        async r => r.ok ? r.text() : (await r.json()).detail);
    } catch {
      by("answer").textContent = "The router does not answer.";
    }
  });
  turn();
})();
