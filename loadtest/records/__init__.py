"""The documents written by benchmarks, and docs/benchmarks/README.md, which is generated from them.

`schema` and `schema_costs` define the documents, `merge` merges several, `views` arranges rows, and `tables`, `costs`
and `plots` generate the page.
"""
