"""The documentation site: pages in Markdown, and the tables in them that the code and the benchmarks write."""
