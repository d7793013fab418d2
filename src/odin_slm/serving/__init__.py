"""The HTTP service: text in, grounded extractions out.

``python -m odin_slm.serving`` starts it; docs/reference/ describes its answers and settings.
"""
