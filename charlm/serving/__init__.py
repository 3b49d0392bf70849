"""Models over HTTP: the completions API of OpenAI, scores, and a page to play with. Needs the extra ``[serve]``.

One process. An event loop (starlette on uvicorn) talks to clients, and one thread computes for all of them; see
``compute``. May import all packages but the command line and training; not torch.
"""
