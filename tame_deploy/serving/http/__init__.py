"""HTTP: starlette's routes on uvicorn."""
