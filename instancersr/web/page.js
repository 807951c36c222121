() => {
  // Screen readers say what the status shows.
  const status = document.querySelector('#status');
  status.setAttribute('role', 'status');
  status.setAttribute('aria-live', 'polite');
  // A picture on the clipboard goes where a chosen file goes.
  document.addEventListener('paste', event => {
    const files = event.clipboardData?.files;
    const input = document.querySelector('#photos input[type=file]');
    if (!files?.length || !input) return;
    event.preventDefault();
    input.files = files;
    input.dispatchEvent(new Event('change', { bubbles: true }));
  });
}
