"""A model behind HTTP: `decodetr serve`.

settings.py   ServeSettings: what a server takes, and how much of it
refusal.py    Refusal: a status, and a message that says what to do
payload.py    bodies of requests into bytes of pictures and what is asked of them
engine.py     what a server asks of a model, whatever runs it; searches of earlier requests
model_engine  a DeCo-DETR; exported_engine: what `decodetr export` wrote, without torch
batcher.py    the one thread that runs the model, on what waits
service.py    from bytes of pictures to entries of detections; who is let in
metrics.py    counters and histograms for Prometheus
app.py        the addresses, as a FastAPI application
server.py     the application on a socket, until a signal ends it
"""
