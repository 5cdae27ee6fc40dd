"""The web page: two photos, a click in one, its match in the other.

    photos      an upload as a photo of the page, or why not; built-in pairs
    matcher     photos in, a dense match out; features once per photo, matches once per pair, both bounded
    session     what one visitor has on the table, as a value
    drawing     a session and its match as pictures
    handlers    what happens at every event of the page
    page        how the page is laid out (gradio)
    look        its colours and sizes
    server      what of it can be reached, and from where
    command     `python -m rtn_jax demo`

All down to drawing can be used, and are tested, without gradio.
"""
