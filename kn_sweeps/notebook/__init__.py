"""The door: what `import kn_sweeps as kn` gives to somebody who types; see docs/notebook.md."""
