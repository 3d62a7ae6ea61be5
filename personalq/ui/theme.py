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


CSS = """
#brand, #status, #shelf, #cands, #progress, #memory { & .html-container { padding: 0; } }
footer .show-api-divider { display: none; }
.gradio-container { width: 100%; max-width: 1320px !important; margin: 0 auto; }
.pq-brand { display: flex; gap: 12px; align-items: center; padding-top: 6px; }
.pq-brand h1 { font-size: 1.35rem; font-weight: 700; letter-spacing: -.02em; margin: 0; line-height: 1.2; }
.pq-brand p, .pq-status, .pq-facts, .pq-why, .pq-how { color: var(--body-text-color-subdued); }
.pq-brand p { margin: 0; font-size: .9rem; }
.pq-status { display: flex; flex-wrap: wrap; gap: 8px; align-items: baseline; font-size: .85rem; }
.pq-status i { width: 9px; height: 9px; border-radius: 50%; background: #c9962c; align-self: center; }
.pq-status.ready i { background: #2f9a8e; }
.pq-status.failed i { background: #c2412d; }
.pq-status summary { cursor: pointer; text-decoration: underline dotted; }
.pq-status ul { margin: 4px 0 0 18px; list-style: disc; overflow-wrap: anywhere; }
.pq-title { font-size: .78rem; letter-spacing: .06em; text-transform: uppercase; margin: 4px 0 8px; font-weight: 600;
  color: var(--body-text-color-subdued); }
.pq-cards { display: grid; gap: 8px; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); }
.pq-card { display: flex; gap: 12px; width: 100%; padding: 8px; text-align: left; align-items: flex-start;
  cursor: pointer; background: var(--block-background-fill); border: 1px solid var(--border-color-primary);
  border-radius: 12px; color: inherit; font-weight: 400; }
.pq-card:hover { border-color: var(--primary-500); }
.pq-card:focus-visible { outline: 2px solid var(--primary-500); outline-offset: 2px; }
.pq-card[aria-pressed=true] { border-color: var(--primary-600); box-shadow: inset 3px 0 0 var(--primary-600); }
.pq-thumb { flex: none; width: 68px; height: 68px; border-radius: 8px; overflow: hidden; display: grid;
  place-items: center; background: var(--background-fill-secondary); font-size: 1.5rem; }
.pq-thumb img { width: 100%; height: 100%; object-fit: cover; margin: 0; }
.pq-text { display: block; min-width: 0; overflow-wrap: anywhere; font-size: .92rem; line-height: 1.35; }
.pq-facts, .pq-why { display: block; font-size: .8rem; margin-top: 2px; }
.pq-why { display: -webkit-box; -webkit-line-clamp: 2; -webkit-box-orient: vertical; overflow: hidden; }
.pq-card code { background: #fde68a; color: #3b2f05; border-radius: 4px; padding: 0 5px; font-size: .8rem; }
.pq-flag { font-size: .7rem; margin-left: 6px; padding: 1px 7px; border-radius: 99px;
  border: 1px solid var(--border-color-primary); }
#header { align-items: center; gap: 4px 24px; }
#header > * { min-width: 0 !important; width: auto; flex: 1 1 auto; }
#header > #status { flex: 0 1 auto; }
.pq-brand svg { flex: none; }
#right { gap: 16px; }
#chat .placeholder-content { padding: 0 16px; }
#chat .options { justify-content: flex-start; margin-left: 0; }
#starters { display: grid; gap: 8px; grid-template-columns: 1fr 1fr; }
#starters .starter { border: 1px solid var(--border-color-primary); border-radius: 12px; min-height: 44px;
  white-space: normal; }
#steps input[type=number], #guidance input[type=number] { width: 3.6em; }
#edit, #actions, #controls { align-items: flex-end; gap: 10px; }
#reset, #dice, #go, #stop { min-height: 44px; }
#reset, #dice { border: 1px solid var(--border-color-primary); }
#warning { border-left: 3px solid #c9962c; padding: 4px 12px; }
#pictures .image-container, #pictures .image-frame { min-height: 0; }
#pictures img { width: 100%; height: 100%; object-fit: contain; }
#reference, #quantised { aspect-ratio: 1; height: auto; }
#progress .error, #progress .clear-status { display: none; }
.pq-progress { margin: 0 0 4px; font-variant-numeric: tabular-nums; }
.pq-bar { display: block; height: 5px; border-radius: 3px; background: var(--primary-500); margin-top: 4px; }
.pq-memory { width: 100%; border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
.pq-memory, .pq-memory tr { border-width: 0 !important; }
.pq-memory th, .pq-memory td { text-align: left; padding: 7px 10px 7px 0 !important; border-width: 0 0 1px !important;
  border-color: var(--border-color-primary) !important; vertical-align: top; font-weight: 400; }
.pq-memory thead th { font-weight: 600; }
.pq-saving { margin: 0 0 8px; } .pq-saving strong { font-size: 1.3rem; color: var(--primary-600); }
.dark .pq-saving strong { color: var(--primary-300); }
.pq-how { font-size: .78rem; margin-top: 8px; }
.pq-hidden { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
footer { opacity: .8; }
@media (min-width: 769px) { #left { position: sticky; top: 12px; align-self: flex-start; } }
@media (max-width: 768px) {
  #work { flex-direction: column; }
  #left, #right { display: contents; }
  #outputs { order: -1; } #talk { order: 1; } #studio { order: 2; } #shelf { order: 3; } #cands { order: 4; }
  #pictures { flex-wrap: nowrap; gap: 8px; }
  #chat { height: 330px !important; }
  .gradio-container { padding: 8px !important; }
}
"""
