"""The report: results.json in, one self-contained HTML page and a model card out."""

from fedstudy_operator.report.card import model_card
from fedstudy_operator.report.page import render

__all__ = ["model_card", "render"]
