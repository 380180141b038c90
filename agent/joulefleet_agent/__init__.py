"""The agent: reads meters and engines on one server and delivers whole windows."""
