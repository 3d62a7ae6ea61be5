"""How the page looks: paper and ink, one teal accent, amber for triggers. System fonts only, nothing is fetched."""

from __future__ import annotations

import gradio as gr

MARK_COLORS = {"trigger": "#fde68a", "concept": "#a7f3d0", "style": "#c7d2fe"}
"""Light enough for dark text in both modes."""

SANS = ["Avenir Next", "Segoe UI", "Inter", "system-ui", "sans-serif"]
MONO = ["ui-monospace", "SF Mono", "DejaVu Sans Mono", "monospace"]
TEAL = gr.themes.Color(
    "#effaf8",
    "#d6f1ec",
    "#aee3da",
    "#7dcfc3",
    "#4fb6a9",
    "#2f9a8e",
    "#1f7d74",
    "#17645d",
    "#144f4a",
    "#10403c",
    "#0a2624",
)

HEADER = """
<div class="pq-brand">
  <svg viewBox="0 0 40 40" width="38" height="38" aria-hidden="true">
    <rect x="2" y="2" width="36" height="36" rx="9" fill="#17645d"/>
    <circle cx="18" cy="18" r="9" fill="none" stroke="#fbfaf7" stroke-width="3.4"/>
    <path d="M23 23h10v10H23z" fill="#fde68a"/>
    <path d="M28 23v10M23 28h10" stroke="#17645d" stroke-width="1.6"/>
  </svg>
  <div>
    <h1>PersonalQ</h1>
    <p>Say what you want. It finds your concept and draws it twice: in full and quantised.</p>
  </div>
</div>
"""


def theme() -> gr.themes.Base:
    """The colours, in light and in dark."""
    return gr.themes.Base(
        primary_hue=TEAL, secondary_hue=TEAL, neutral_hue="stone", radius_size="lg", font=SANS, font_mono=MONO
    ).set(
        body_background_fill="#f6f4ee",
        body_background_fill_dark="#161817",
        body_text_color="#23282a",
        body_text_color_dark="#ecebe6",
        body_text_color_subdued="#5a605f",
        body_text_color_subdued_dark="#a9b0ad",
        background_fill_primary="#fffefb",
        background_fill_primary_dark="#1e2120",
        background_fill_secondary="#f0ede4",
        background_fill_secondary_dark="#252928",
        block_background_fill="#fffefb",
        block_background_fill_dark="#1e2120",
        block_border_color="#e2ddd0",
        block_border_color_dark="#343a38",
        block_label_background_fill="#fffefb",
        block_label_background_fill_dark="#1e2120",
        block_label_text_color="#4a5150",
        block_label_text_color_dark="#c3c9c6",
        block_title_text_color="#4a5150",
        block_title_text_color_dark="#c3c9c6",
        border_color_primary="#e2ddd0",
        border_color_primary_dark="#343a38",
        input_border_width="1px",
        input_border_color="#8d8778",
        input_border_color_dark="#717976",
        checkbox_border_color="#8d8778",
        checkbox_border_color_dark="#717976",
        input_background_fill="#fffefb",
        input_background_fill_dark="#191c1b",
        input_placeholder_color="#6b7170",
        input_placeholder_color_dark="#98a09d",
        button_primary_background_fill="#17645d",
        button_primary_background_fill_hover="#144f4a",
        button_primary_background_fill_dark="#7dcfc3",
        button_primary_background_fill_hover_dark="#aee3da",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#0a2624",
        button_secondary_background_fill="#eeeade",
        button_secondary_background_fill_hover="#e3ddcc",
        button_secondary_background_fill_dark="#2b302e",
        button_secondary_background_fill_hover_dark="#363c3a",
        button_secondary_text_color="#23282a",
        button_secondary_text_color_dark="#ecebe6",
        button_cancel_background_fill="#b3402f",
        button_cancel_background_fill_hover="#963224",
        button_cancel_background_fill_dark="#b3402f",
        button_cancel_background_fill_hover_dark="#c94f3d",
        button_cancel_text_color="#ffffff",
        button_cancel_text_color_dark="#ffffff",
        slider_color="#1f7d74",
        slider_color_dark="#4fb6a9",
        shadow_drop="none",
        block_shadow="none",
    )
