// Titles reach the page through textContent only: nothing from the data is ever read as HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = document.getElementById("find"), list = document.getElementById("list"), found = document.getElementById("found");
  const chosen = Object.keys(data.negatives);

  function make(tag, kind, text) {
    const element = document.createElement(tag);
    if (kind) element.className = kind;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  const pictures = Object.values(data.items).some((item) => item.image);

  function picture(item) {
    if (!item.image) return pictures ? [make("i", "none")] : [];
    const image = make("img");
    image.src = item.image;
    image.alt = "";
    return [image];
  }

  function row([key, cosine]) {
    const item = data.items[key], line = make("div", "row"), bar = make("div", "like"), fill = make("i");
    fill.style.width = `${Math.max(0, Math.min(1, cosine)) * 100}%`;
    bar.append(fill);
    line.title = `${item.id}: ${item.title}`;
    line.append(...picture(item), make("span", "", item.title), make("em", "", `${item.c1}/${item.c2}`), bar, make("b", "", cosine.toFixed(2)));
    if (key in data.negatives) line.onclick = () => show(key);
    return line;
  }

  function column(kind, title, pairs) {
    const part = make("div", kind);
    part.append(make("h3", "", title));
    if (!pairs.length) part.append(make("p", "", "none among the items sampled"));
    part.append(...pairs.map(row));
    return part;
  }

  function show(key) {
    const item = data.items[key], drawn = data.negatives[key];
    const own = make("div", "own"), words = make("div"), two = make("div", "two");
    words.append(make("strong", "", item.title), make("br"));
    words.append(make("small", "", `${item.id} · primary ${item.c1}, secondary ${item.c2}${item.category ? " · " + item.category : ""}`));
    own.append(...picture(item), words);
    two.append(column("easy", "Easy: other primaries", drawn.easy), column("hard", "Hard: same primary, other cell; the nearest primary where that holds too few", drawn.hard));
    found.replaceChildren(own, two);
    list.value = key;
  }

  function fill() {
    const wanted = find.value.toLowerCase();
    const kept = chosen.filter((key) => `${data.items[key].title} ${data.items[key].id}`.toLowerCase().includes(wanted));
    list.replaceChildren(...kept.map((key) => {
      const option = make("option", "", data.items[key].title);
      option.value = key;
      return option;
    }));
    if (kept.length) show(kept[0]);
  }

  find.oninput = fill;
  list.onchange = () => show(list.value);
  for (const button of document.querySelectorAll("button[data-item]")) {
    button.onclick = () => {
      show(button.dataset.item);
      document.querySelector(".explorer").scrollIntoView({ behavior: "smooth" });
    };
  }
  fill();
})();
