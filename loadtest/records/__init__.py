"""What benchmarks write, and docs/benchmarks/README.md, which is drawn from it.

`schema` and `schema_costs` are the documents; `merge` joins several, `views` arranges rows, `tables`, `costs` and
`plots` draw.
"""
