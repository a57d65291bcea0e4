// The explorer of mixtures: evaluates `ClosedForm` (jaxsim/search/closed_form.py)
// at the weights that the reader sets. Names in arrays follow the record: C members,
// D domains, T targets.
const section = document.getElementById("explorer");
if (section) {
  const find = (selector) => section.querySelector(selector);
  const all = (selector) => [...section.querySelectorAll(selector)];
  const form = JSON.parse(find("script[type='application/json']").textContent);
  // Of each symmetric matrix, the page holds the rows up to the diagonal.
  const curve_DCC = form.curve.map((rows) =>
    rows.map((row, i) => rows.map((other, j) => (j <= i ? row[j] : other[i]))),
  );

  const sum = (xs) => xs.reduce((total, x) => total + x, 0);
  const dot = (xs, ys) => xs.reduce((total, x, i) => total + x * ys[i], 0);
  // The values of a dictionary in the order of `names`; names are anybody's words.
  const listed = (dictionary, names) => {
    const known = new Map(Object.entries(dictionary));
    return names.map((name) => known.get(name) ?? 0);
  };

  // What the closed form says.

  const targets = Object.keys(form.target);
  const parts_TD = targets.map((name) => listed(form.target[name], form.domains));
  const weights_T = listed(form.weights, targets);
  const mean_D = form.domains.map(
    (_, d) => dot(weights_T, parts_TD.map((parts) => parts[d])) / sum(weights_T),
  );
  const presets = form.presets.map((preset) => ({
    name: preset.name,
    bits_D: preset.bits,
    w_C: listed(preset.weights, form.members),
  }));

  /** The closed form's bits per byte of every domain, and their slopes. */
  const evaluate = (w_C) =>
    form.domains.map((_, d) => {
      const bent_C = curve_DCC[d].map((row_C) => dot(row_C, w_C));
      return {
        bits: form.constant[d] + dot(form.linear[d], w_C) - dot(bent_C, w_C) / 4,
        slope_C: form.linear[d].map((slope, c) => slope - bent_C[c] / 2),
      };
    });

  /** The objective, and the weights of the domains that it rests on. */
  const goal = (bits_D) => {
    if (form.kind === "mean") return { value: dot(mean_D, bits_D), parts_D: mean_D };
    const rise = (parts_D) => dot(parts_D, bits_D) - dot(parts_D, form.base);
    const parts_D = parts_TD.reduce((a, b) => (rise(b) > rise(a) ? b : a));
    return { value: rise(parts_D) + dot(mean_D, form.base), parts_D };
  };
  const reference = presets.find((preset) => preset.name === form.reference);
  const reference_value = goal(reference.bits_D).value;

  /** What the page shows of a mixture: of its real merge, where there is one. */
  const predict = (w_C) => {
    const preset = presets.find((p) => p.w_C.every((w, c) => near(w, w_C[c])));
    if (form.refusal) return { preset, bits_D: preset?.bits_D };
    const formed = evaluate(w_C);
    const bits_D = preset?.bits_D ?? formed.map((domain) => domain.bits);
    const { parts_D } = goal(bits_D);
    const slope_C = w_C.map((_, c) => dot(parts_D, formed.map((d) => d.slope_C[c])));
    const here = dot(slope_C, w_C);
    const next_C = slope_C.map((slope) => (-0.01 * (slope - here)) / reference_value);
    return { preset, bits_D, next_C };
  };
  const near = (a, b) => Math.abs(a - b) < 1e-7; // the address has eight decimals

  // The mixture that is shown.

  let w_C = presets[0].w_C;
  let ratio_C = w_C; // in which members share what is left, also after all had 0
  const locked_C = form.members.map(() => false);

  /** Sets one weight; the members that are not locked give way in proportion. */
  const set = (member, weight) => {
    const free = (c) => c !== member && !locked_C[c];
    const total = (xs) => sum(xs.filter((_, c) => free(c)));
    const held = sum(w_C.filter((_, c) => c !== member && locked_C[c]));
    const most = Math.max(0, 1 - held);
    const has_free = w_C.some((_, c) => free(c));
    const value = has_free ? Math.min(Math.max(weight, 0), most) : most;
    if (total(w_C) > 0) ratio_C = w_C;
    if (total(ratio_C) === 0) ratio_C = w_C.map(() => 1);
    const scale = (most - value) / total(ratio_C);
    w_C = w_C.map((w, c) => (c === member ? value : free(c) ? ratio_C[c] * scale : w));
  };

  /** Takes the mixture in the address: `#mixture&NAME=WEIGHT&...`. */
  const read = () => {
    const [first, ...entries] = new URLSearchParams(location.hash.slice(1));
    if (first?.[0] !== "mixture") return;
    const given_C = listed(Object.fromEntries(entries), form.members).map(Number);
    const total = sum(given_C);
    const is_mixture =
      total > 0 && Number.isFinite(total) && given_C.every((w) => w >= 0);
    const is_known = entries.every(([name]) => form.members.includes(name));
    find(".unread").hidden = is_mixture && is_known;
    if (is_mixture && is_known) start(given_C.map((w) => w / total));
    section.scrollIntoView();
  };

  /** Shows a mixture from elsewhere; one that is a preset's but for rounding is it. */
  const start = (given_C) => {
    w_C = predict(given_C).preset?.w_C ?? given_C;
    locked_C.fill(false);
    show();
  };

  const write = () => {
    const entries = form.members.map((name, c) => [name, +w_C[c].toFixed(8)]);
    const query = new URLSearchParams(entries.filter(([, w]) => w > 0));
    history.replaceState(null, "", `#mixture&${query}`);
    find(".unread").hidden = true;
  };

  /** The mixture as `--mixtures` reads it; see `as_text` in jaxsim/scoring/table.py. */
  const csv = () => {
    const cell = (name) => {
      const text = /^'*[=+\-@]/.test(name) ? `'${name}` : name;
      return /[",;\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    const used = form.members.map((_, c) => c).filter((c) => +w_C[c].toFixed(9) > 0);
    const header = ["name", ...used.map((c) => cell(form.members[c]))];
    const { row } = find(".csv").dataset;
    return `${header}\n${[row, ...used.map((c) => +w_C[c].toFixed(9))]}\n`;
  };

  // The page.

  const rows_C = all(".sources tbody tr").map((row) => ({
    row,
    slider: row.querySelector("[type=range]"),
    number: row.querySelector("[type=number]"),
    lock: row.querySelector("[type=checkbox]"),
  }));
  const next_C = all(".bought li");
  const signed = (x, digits) => {
    const text = Math.abs(x).toFixed(digits);
    return (+text === 0 ? "" : x > 0 ? "+" : "−") + text;
  };
  const loss = (x) => x.toFixed(4);
  const percent = (share, digits = 2) => `${signed(100 * share, digits)}%`;
  const tone = (x) => (x > 0 ? "better" : x < 0 ? "worse" : "");

  /** Fills a `data` element: what is read, and the exact value. */
  const fill = (element, value, text) => {
    element.value = value ?? "";
    element.textContent = value === undefined ? "not known" : text(value);
  };

  const fillGain = (place, gain) => {
    const element = place.querySelector(".gained");
    fill(element, gain, percent);
    element.className = `gained ${tone(gain)}`;
  };

  /** Draws a bar from 0 to a value, on a scale from `low` to `high`. */
  const draw = (bar, value, low, high) => {
    const place = (x) => (100 * (x - low)) / (high - low || 1);
    bar.style.left = `${place(Math.min(value, 0))}%`;
    bar.style.width = `${place(Math.abs(value)) - place(0)}%`;
    bar.className = tone(value);
  };

  const show = () => {
    const { preset, bits_D, next_C: gain_C } = predict(w_C);
    showSources();
    showOutcome(preset, bits_D);
    for (const row of all(".domains tbody tr")) {
      const d = row.dataset.domain;
      fill(row.querySelector(".bits"), bits_D?.[d], loss);
      const error = bits_D && !preset ? `± ${loss(form.residual[d])}` : "";
      row.querySelector("small").textContent = error;
      fillGain(row, bits_D && 1 - bits_D[d] / reference.bits_D[d]);
    }
    showNext(gain_C);
    all("[data-preset]").forEach((button, p) => {
      button.setAttribute("aria-pressed", presets[p] === preset);
    });
    find(".csv").textContent = csv();
    find(".csv + button").textContent = "Copy"; // not "Copied": it is another one
    const address = `data:text/csv;charset=utf-8,${encodeURIComponent(csv())}`;
    find("[download]").href = address;
  };

  const showSources = () => {
    const beyond = [];
    rows_C.forEach(({ row, slider, number, lock }, c) => {
      const text = (100 * w_C[c]).toFixed(2);
      slider.value = Math.sqrt(w_C[c]); // small weights have room on the slider
      slider.setAttribute("aria-valuetext", `${text}%`);
      number.value = +text;
      lock.checked = locked_C[c];
      slider.disabled = number.disabled = locked_C[c];
      const most = form.most[c];
      const is_beyond = most !== null && w_C[c] > most + 1e-9;
      row.classList.toggle("beyond", is_beyond);
      const limit = `${(100 * most).toFixed(1)}%`;
      if (is_beyond) beyond.push(`${form.members[c]} above ${limit}`);
    });
    find(".extrapolated").hidden = !beyond.length;
    find(".extrapolated span").textContent = beyond.join(", ");
  };

  const showOutcome = (preset, bits_D) => {
    const { value, parts_D } = bits_D ? goal(bits_D) : {};
    fillGain(find(".outcome"), bits_D && 1 - value / reference_value);
    fill(find(".outcome .bits"), value, loss);
    const off = bits_D && loss(dot(parts_D, form.residual));
    find(".how").textContent =
      preset ? " (merged)" : bits_D ? ` (closed form, off by about ${off})` : "";
    fill(find(".outcome .reference"), reference_value, loss);
    fill(find(".outcome .base"), goal(form.base).value, loss);
  };

  const showNext = (gain_C) => {
    find(".bought").hidden = !gain_C;
    if (!gain_C) return;
    const low = Math.min(0, ...gain_C);
    const high = Math.max(0, ...gain_C);
    next_C.forEach((item, c) => {
      draw(item.querySelector("i"), gain_C[c], low, high);
      fill(item.querySelector("data"), gain_C[c], (x) => percent(x, 3));
    });
    const order = form.members.map((_, c) => c).sort((a, b) => gain_C[b] - gain_C[a]);
    find(".bought ol").append(...order.map((c) => next_C[c]));
  };

  rows_C.forEach(({ slider, number, lock }, c) => {
    const change = (weight) => {
      if (!Number.isNaN(weight)) set(c, weight);
      show();
    };
    slider.addEventListener("input", () => change(slider.valueAsNumber ** 2));
    number.addEventListener("change", () => change(number.valueAsNumber / 100));
    lock.addEventListener("change", () => {
      locked_C[c] = lock.checked;
      show();
    });
    for (const input of [slider, number]) input.addEventListener("change", write);
  });
  all("[data-preset]").forEach((button, p) => {
    button.addEventListener("click", () => {
      start(presets[p].w_C);
      write();
    });
  });
  addEventListener("hashchange", read);
  section.hidden = false;
  show();
  read();
}
