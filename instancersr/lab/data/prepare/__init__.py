"""`instancersr prepare`: photos -> WebDataset shards with instance masks, and with latents and features if asked for.

`photos` lists the photos and cuts the list into shards, `sample` turns one photo into the files of its sample,
`shards` writes a tar, `workers` does that on many cores or machines, `run` begins, goes on and sums up.
"""
