// Times in the reader's zone that stay true, buttons that copy, and what is said of a live page. Nothing needs it.
"use strict";
(() => {
  function span(seconds) {
    const days = seconds / 86400;
    if (seconds < 60) return `${Math.floor(seconds)} s`;
    if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
    if (days < 2) return `${Math.floor(seconds / 3600)} h`;
    if (days < 60) return `${Math.floor(days)} days`;
    return days < 730 ? `${Math.round(days / 30.44)} months` : `${Math.round(days / 365.25)} years`;
  }

  // The server's clock counts, not the reader's: pages say when they were made.
  const made = Date.parse(document.documentElement.dataset.now);
  const begun = performance.now();
  const now = () => made + performance.now() - begun;
  const exact = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

  function times() {
    for (const time of document.querySelectorAll("time[datetime]")) {
      const moment = Date.parse(time.dateTime);
      if (Number.isNaN(moment)) continue;
      time.title = exact.format(moment);
      if (!("ago" in time.dataset)) continue;
      const apart = (now() - moment) / 1000;
      const said = Math.abs(apart) < 1 ? "just now" : apart > 0 ? `${span(apart)} ago` : `in ${span(-apart)}`;
      if (time.textContent !== said) time.textContent = said;
    }
  }

  async function copy(button) {
    const from = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(from.textContent);
    } catch {  // no permission, or plain http: what is selected can be copied by hand
      getSelection().selectAllChildren(from);
      document.execCommand("copy");
    }
    button.nextElementSibling.textContent = "Copied.";
  }

  times();
  setInterval(times, 10000);
  for (const button of document.querySelectorAll("button[data-copy]")) button.hidden = false;
  document.addEventListener("click", event => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button);
  });

  const say = word => { for (const each of document.querySelectorAll("[data-live-state]")) each.textContent = word; };
  const opened = new WeakSet();
  document.addEventListener("htmx:sseOpen", event => {
    say("live");
    if (opened.has(event.target) || performance.now() > 2000) htmx.trigger(event.target, "sse:changed");  // what happened meanwhile
    opened.add(event.target);
  });
  document.addEventListener("htmx:sseError", () => say("not live at the moment"));
  document.addEventListener("htmx:sseClose", () => say("no longer live: reload"));
  // Nothing is taken from under the reader's hand.
  document.addEventListener("htmx:oobBeforeSwap", event => {
    if (event.detail.target.contains(document.activeElement) && document.activeElement !== document.body) event.detail.shouldSwap = false;
  });
  document.addEventListener("htmx:afterSettle", times);
  document.addEventListener("htmx:oobAfterSwap", times);
})();
