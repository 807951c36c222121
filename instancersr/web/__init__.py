"""`instancersr web`: a page in the browser. It needs the extra `web`."""
