"""The HTTP service: text in, grounded extractions out.

``python -m odin_slm.serving`` starts it; docs/api.md describes its answers, docs/deployment.md its settings.
"""
