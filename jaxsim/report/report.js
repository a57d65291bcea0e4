// A button beside a command copies it; without clipboard it selects it.
for (const button of document.querySelectorAll(".command button")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const command = button.previousElementSibling;
    try {
      await navigator.clipboard.writeText(command.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(command);
    }
  });
}
// A link into folded details opens them.
function unfold() {
  const place = document.getElementById(location.hash.slice(1));
  const details = place?.closest("details") ?? place?.querySelector(":scope > details");
  if (details) details.open = true;
}
addEventListener("hashchange", unfold);
unfold();
