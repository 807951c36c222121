"""The page: what is on it, and what happens when somebody uses it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import UserError
from ..presets import DENOISE, FIDELITY
from ..recipe import QUALITIES, Quality
from .jobs import Job, Progress, Stopped, Worker
from .session import Result, Sessions, Setting
from .studio import Options, Outcome, Studio, address, save

SCALES = [("2×", 2), ("3×", 3), ("4×", 4)]
LOOKS = {"natural": "Natural", "between": "In between", "faithful": "Faithful"}
TYPES = [("PNG", ".png"), ("JPEG", ".jpg"), ("WebP", ".webp")]

THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""The fonts are the visitor's own: none is fetched."""

CLICK = "() => document.querySelector('#download a')?.click()"
"""Once there is a link to the file, the download begins."""

Settings = dict[int, Setting]


def read_part(name: str) -> str:
    """The text of a file beside this module."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def build_page(studio: Studio, worker: Worker, sessions: Sessions) -> gr.Blocks:
    """The page, ready to be served."""
    with gr.Blocks(title="InstanceRSR", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        gr.Markdown("# InstanceRSR\nMakes small, blurred or noisy photos large and clear, and lets you decide about "
                    "each object in them. Photos go to the computer that serves this page and nowhere else.",
                    elem_id="heading")
        with gr.Row():
            with gr.Column(scale=1, min_width=340):
                # any type: Gradio would refuse all files for the sake of one
                photos = gr.File(label="Photos: drop, paste or choose", file_count="multiple", height=160,
                                 elem_id="photos")
                scale = gr.Radio(SCALES, value=4, label="Enlarge")
                quality = gr.Radio([(name.capitalize(), name) for name in QUALITIES], value="balanced", label="Quality")
                look = gr.Radio([(LOOKS[name], name) for name in FIDELITY], value="natural", label="Look")
                noise = gr.Radio([(name.capitalize(), name) for name in DENOISE], value="auto", label="Noise and grain",
                                 visible=studio.denoises, elem_id="noise")
                suffix = gr.Radio(TYPES, value=".png", label="Save as")
                with gr.Row():
                    start = gr.Button("Enlarge", variant="primary", min_width=100, elem_id="start")
                    cancel = gr.Button("Cancel", interactive=False, min_width=100, elem_id="cancel")
                status = gr.HTML(elem_id="status", padding=True)
            with gr.Column(scale=3, min_width=320):
                viewer = gr.HTML(None, html_template=read_part("viewer.html"), css_template=read_part("viewer.css"),
                                 js_on_load=read_part("viewer.js"), elem_id="viewer")
                with gr.Column(visible=False, elem_id="objects") as panel:
                    with gr.Row(equal_height=True):
                        chosen = gr.Dropdown([], min_width=240, label="Object", elem_id="object",
                                             info="Choose one here, or click it in the picture.")
                        strength = gr.Slider(0, 1, value=1, step=0.05, min_width=240, label="Strength",
                                             elem_id="strength", info="0: as in the input. 1: fully restored.")
                    with gr.Row():
                        apply = gr.Button("Apply strength", size="sm", min_width=130, elem_id="apply")
                        again = gr.Button("Another version", size="sm", min_width=130, elem_id="again")
                        reset = gr.Button("Reset object", size="sm", min_width=130, elem_id="reset")
                        reset_all = gr.Button("Reset all", size="sm", min_width=130, elem_id="reset-all")
                download = gr.Button("Download", variant="primary", visible=False, elem_id="save")
                link = gr.HTML(elem_id="download")

        def busy(working: bool) -> dict:
            return {start: gr.update(interactive=not working), cancel: gr.update(interactive=working)}

        async def follow(key: str, work: Callable[[Job], Any],
                         finish: Callable[[Any], dict]) -> AsyncGenerator[dict, None]:
            """Updates of the page while a job waits and runs, and those that `finish` makes of its result."""
            try:
                async with aclosing(worker.run(key, work)) as states:
                    async for state in states:
                        if isinstance(state, Progress):
                            yield {status: _progress(state), **busy(True)}
                        else:
                            yield finish(state) | busy(False)
            except Stopped:
                yield {status: "<p>Cancelled.</p>", **busy(False)}
            except UserError as error:
                yield {status: _problems([str(error)]), **busy(False)}
            except Exception:  # a bug; the page gets no traceback
                logging.getLogger(__name__).exception("a job failed")
                yield {status: _problems(["This did not work; the server's log says why."]), **busy(False)}

        async def enlarge(paths: list[str] | None, times: float, chosen_quality: Quality, chosen_look: str,
                          ending: str, chosen_noise: str, request: gr.Request) -> AsyncGenerator[dict, None]:
            if not paths:
                yield {status: _problems(["Choose a photo first."])}
                return
            session = sessions.begin(str(request.session_hash))
            options = Options(times, chosen_quality, FIDELITY[chosen_look], ending, DENOISE[chosen_noise])

            def work(job: Job) -> tuple[Outcome, Result | None]:
                return studio.enlarge(session, [Path(path) for path in paths], options, job)

            def finish(done: tuple[Outcome, Result | None]) -> dict:
                outcome, result = done
                sessions.keep(session, outcome.pixels, result)
                objects = [(each["label"], each["id"]) for each in result.view["objects"]] if result else []
                return {status: _summary(outcome), viewer: outcome.view, panel: gr.update(visible=bool(objects)),
                        chosen: gr.update(choices=objects, value=None), download: gr.update(visible=bool(result)),
                        link: _link(outcome.archive) if outcome.archive else ""}

            yield {viewer: None, panel: gr.update(visible=False), download: gr.update(visible=False), link: ""}
            async with aclosing(follow(str(request.session_hash), work, finish)) as updates:
                async for update in updates:
                    yield update

        def changing(edit: Callable[[Settings, int | None, float], Settings]) -> Callable:
            """What a button does that gives the objects other settings."""

            async def change(number: int | None, value: float, request: gr.Request) -> AsyncGenerator[dict, None]:
                try:
                    session, result = sessions.find(str(request.session_hash))
                    settings = edit(result.settings, number, value)
                except UserError as error:
                    yield {status: _problems([str(error)])}
                    return

                def finish(_: None) -> dict:
                    return {status: "<p>Done.</p>", viewer: result.view, link: "",
                            strength: _setting(settings, number).strength}

                def work(job: Job) -> None:
                    studio.change(session, result, settings, job)

                async with aclosing(follow(str(request.session_hash), work, finish)) as updates:
                    async for update in updates:
                        yield update

            return change

        async def strength_of(number: int | None, request: gr.Request) -> float:
            try:
                return _setting(sessions.find(str(request.session_hash))[1].settings, number).strength
            except UserError:
                return 1

        def keep(ending: str, request: gr.Request) -> str:
            try:
                session, result = sessions.find(str(request.session_hash))
                path, notes = save(session, result, ending)
            except UserError as error:
                return _problems([str(error)])
            return _link(path) + _lines(notes)

        async def pick(event: gr.EventData) -> int:
            return event.id

        async def stop(request: gr.Request) -> None:
            worker.cancel(str(request.session_hash))

        async def leave(request: gr.Request) -> None:
            worker.cancel(str(request.session_hash))
            sessions.drop(str(request.session_hash))

        long: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None, "api_visibility": "private"}
        short: dict[str, Any] = {"show_progress": "hidden", "queue": False, "api_visibility": "private"}
        after_change = [status, viewer, link, strength, start, cancel]
        start.click(enlarge, [photos, scale, quality, look, suffix, noise],
                    [status, viewer, panel, chosen, download, link, start, cancel],
                    **long | {"api_visibility": "public"})
        for button, edit in ((apply, _set_strength), (again, _draw_again), (reset, _reset), (reset_all, _reset_all)):
            button.click(changing(edit), [chosen, strength], after_change, **long)
        cancel.click(stop, None, None, **short)
        viewer.select(pick, None, chosen, **short)
        chosen.change(strength_of, chosen, strength, js="id => { window.highlightObject(id); return [id]; }", **short)
        download.click(keep, suffix, link, **long | {"api_visibility": "public"}).then(None, None, None, js=CLICK)
        page.unload(leave)
    return page


def _set_strength(settings: Settings, number: int | None, strength: float) -> Settings:
    return settings | {_known(number): replace(_setting(settings, number), strength=strength)}


def _draw_again(settings: Settings, number: int | None, _: float) -> Settings:
    seed = secrets.randbelow(2**32)
    return settings | {_known(number): replace(_setting(settings, number), seed=seed)}


def _reset(settings: Settings, number: int | None, _: float) -> Settings:
    return {each: setting for each, setting in settings.items() if each != _known(number)}


def _reset_all(*_: Any) -> Settings:
    return {}


def _setting(settings: Settings, number: int | None) -> Setting:
    return Setting() if number is None else settings.get(number, Setting())


def _known(number: int | None) -> int:
    if number is None:
        raise UserError("Choose an object first: click it in the picture, or pick it from the list.")
    return number


# ------------------------------------------------------------------------------------------------ small HTML


def _progress(state: Progress) -> str:
    if state.ahead:
        others = "1 other job is" if state.ahead == 1 else f"{state.ahead} other jobs are"
        return f"<p>Waiting in line: {others} before yours.</p><progress aria-label='Progress'></progress>"
    left = "" if state.seconds_left is None else f" {_time_left(state.seconds_left)} left."
    return (f"<p>Working.{left}</p>"
            f"<progress value='{state.share:.3f}' max='1' aria-label='Progress'></progress>")


def _time_left(seconds: float) -> str:
    """Rounded, so that it does not flicker and a screen reader does not say it all the time."""
    if seconds < 60:
        return f"About {max(5, 5 * round(seconds / 5))} seconds"
    minutes = round(seconds / 60)
    return "About a minute" if minutes == 1 else f"About {minutes} minutes"


def _summary(outcome: Outcome) -> str:
    done = "<p>Done.</p>" if outcome.done else ""
    return _problems(outcome.problems) + done + _lines(outcome.done) + _lines(outcome.notes)


def _problems(lines: list[str]) -> str:
    return "".join(f"<p class='problem'>{escape(line)}</p>" for line in lines)


def _lines(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>" if lines else ""


def _link(path: Path) -> str:
    size = path.stat().st_size / 1e6
    return (f"<p><a href='{escape(address(path))}' download='{escape(path.name)}'>{escape(path.name)}</a> "
            f"({size:.1f} MB)</p>")
