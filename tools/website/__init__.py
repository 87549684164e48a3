"""The documentation site: pages of docs/, pages made from the registries, and the reference of the Python API."""
