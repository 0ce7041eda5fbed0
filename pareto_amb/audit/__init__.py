"""Whom models memorize: membership inference, and what training on an image changes about it.

Both compare models that were trained on an image with models that were not: m models, each trained on a
part of the images. Nothing here trains; only NumPy and SciPy are needed. docs/audit.md says what an audit
shows and what it does not.
"""
