"use strict";
// Inside Airflow's frame the page takes Airflow's colours, and its links move Airflow itself.
if (window.parent !== window) {
  const airflow = window.parent;
  const follow = () => {
    const isDark = airflow.document.documentElement.classList.contains("dark");
    document.documentElement.classList.toggle("dark", isDark);
    document.documentElement.classList.toggle("light", !isDark);
  };
  follow();
  new MutationObserver(follow).observe(airflow.document.documentElement, { attributes: true });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-airflow]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    airflow.history.pushState({}, "", link.href);
    airflow.dispatchEvent(new PopStateEvent("popstate", { state: {} }));
  });
}
