"use strict";
// Sortable tables: numbers by value, the rest by text; a second click reverses.
document.querySelectorAll("table.sortable").forEach(function (table) {
  table.querySelectorAll("th").forEach(function (head, column) {
    function sort() {
      var up = head.getAttribute("aria-sort") !== "ascending";
      table.querySelectorAll("th").forEach(function (other) { other.removeAttribute("aria-sort"); });
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      var body = table.tBodies[0];
      Array.from(body.rows).map(function (row) {
        var key = row.cells[column].dataset.key, value = key === "-inf" ? -Infinity : Number(key);
        return { row: row, key: key, value: key.trim() === "" ? NaN : value };
      }).sort(function (a, b) {
        var both = !isNaN(a.value) && !isNaN(b.value);
        var order = both ? (a.value === b.value ? 0 : a.value - b.value) : a.key.localeCompare(b.key, undefined, { numeric: true });
        return up ? order : -order;
      }).forEach(function (item) { body.appendChild(item.row); });
    }
    head.addEventListener("click", sort);
    head.addEventListener("keydown", function (event) { if (event.key === "Enter") sort(); });
  });
});

// Completions browser. Everything a model wrote goes in through textContent, never through HTML.
(function () {
  var data = JSON.parse(document.getElementById("data").textContent);
  var page = 0, size = 10;
  function $(id) { return document.getElementById(id); }
  function node(tag, cls, text) {
    var el = document.createElement(tag);
    if (cls) el.className = cls;
    if (text !== undefined) el.textContent = text;
    return el;
  }
  function unique(list) { return Array.from(new Set(list)); }
  function fill(select, values, any) {
    var old = select.value;
    select.replaceChildren();
    if (any) { var all = node("option", "", "any"); all.value = ""; select.append(all); }
    values.forEach(function (v) { var o = node("option", "", v[1]); o.value = v[0]; select.append(o); });
    if (Array.from(select.options).some(function (o) { return o.value === old; })) select.value = old;
  }
  function same(values) { return values.map(function (v) { return [v, v]; }); }
  function block() {
    return data.find(function (b) { return b.entry === $("f-entry").value && b.benchmark === $("f-benchmark").value; });
  }
  function setup() {
    var here = data.filter(function (b) { return b.entry === $("f-entry").value; });
    fill($("f-benchmark"), same(unique(here.map(function (b) { return b.benchmark; }))));
    var b = block();
    fill($("f-category"), same(unique(b.items.map(function (i) { return i.category; })).filter(Boolean).sort()), true);
    fill($("f-verdict"), same(unique(b.items.flatMap(function (i) { return i.cells.map(function (c) { return c.verdict; }); })).sort()), true);
    fill($("f-method"), b.methods.map(function (m) { return [m.id, m.name]; }), true);
    var hidden = new Set(Array.from($("f-columns").querySelectorAll("input:not(:checked)")).map(function (i) { return i.value; }));
    $("f-columns").replaceChildren();
    b.methods.forEach(function (m) {
      var label = node("label"), box = node("input");
      box.type = "checkbox"; box.value = m.id; box.checked = !hidden.has(m.id);
      box.addEventListener("change", draw);
      label.append(box, " " + m.name);
      $("f-columns").append(label);
    });
    page = 0;
    draw();
  }
  function position(b, id) { return b.methods.findIndex(function (m) { return m.id === id; }); }
  function firstOf(b, method) { return b.methods.findIndex(function (m) { return m.method === method; }); }
  function keep(b, item) {
    var verdict = $("f-verdict").value, method = $("f-method").value, changed = $("f-changed").value;
    var needle = $("f-text").value.toLowerCase();
    if ($("f-category").value && item.category !== $("f-category").value) return false;
    if ($("f-half").value && item.half !== $("f-half").value) return false;
    if (verdict) {
      var cells = method ? [item.cells[position(b, method)]] : item.cells;
      if (!cells.some(function (c) { return c.verdict === verdict; })) return false;
    }
    if (changed) {
      var before = item.cells[firstOf(b, "finetuned")], after = item.cells[firstOf(b, "safemerge")];
      if (!before || !after) return false;
      var text = before.text !== after.text, flip = before.verdict !== after.verdict;
      if ({ text: !text, verdict: !flip, same: text || flip }[changed]) return false;
    }
    return !needle || item.prompt.toLowerCase().includes(needle) ||
      item.cells.some(function (c) { return c.text.toLowerCase().includes(needle); });
  }
  function draw() {
    var b = block(), found = b.items.filter(function (item) { return keep(b, item); });
    var shown = new Set(Array.from($("f-columns").querySelectorAll("input:checked")).map(function (i) { return i.value; }));
    var pages = Math.max(1, Math.ceil(found.length / size));
    page = Math.min(Math.max(page, 0), pages - 1);
    $("count").textContent = found.length + " of " + b.items.length + " prompts" +
      (b.total > b.items.length ? " (the first " + b.items.length + " of " + b.total + " are in this file)" : "");
    $("where").textContent = "page " + (page + 1) + " of " + pages;
    $("prev").disabled = page === 0;
    $("next").disabled = page === pages - 1;
    $("cards").replaceChildren.apply($("cards"), found.slice(page * size, page * size + size).map(function (item) {
      var card = node("article", "card"), prompt = node("div", "prompt", item.prompt), cells = node("div", "cells");
      var facts = [item.id, item.half, item.category, item.label, item.reference && "reference: " + item.reference];
      prompt.append(node("small", "", facts.filter(Boolean).join(" · ")));
      item.cells.forEach(function (c, i) {
        var m = b.methods[i];
        if (!shown.has(m.id)) return;
        var cell = node("div", "cell"), head = node("h4");
        head.append(node("span", "", m.name), node("span", "tag " + c.verdict.replace(/\W/g, "-"), c.verdict));
        head.title = m.label;
        cell.append(head, node("p", "", c.text || "(empty)"));
        if (c.note) cell.append(node("small", "", c.note));
        cells.append(cell);
      });
      card.append(prompt, cells);
      return card;
    }));
  }
  if (!data.length) { $("browser").hidden = true; return; }
  fill($("f-entry"), same(unique(data.map(function (b) { return b.entry; }))));
  var harm = data.find(function (b) { return b.role === "harm"; });
  ["f-entry", "f-benchmark"].forEach(function (id) { $(id).addEventListener("change", setup); });
  ["f-category", "f-half", "f-verdict", "f-method", "f-changed"].forEach(function (id) {
    $(id).addEventListener("change", function () { page = 0; draw(); });
  });
  $("f-text").addEventListener("input", function () { page = 0; draw(); });
  $("prev").addEventListener("click", function () { page -= 1; draw(); });
  $("next").addEventListener("click", function () { page += 1; draw(); });
  setup();
  if (harm) { $("f-benchmark").value = harm.benchmark; setup(); }
})();
