"""What serves the application: uvicorn with limits, a drain, and a close that lets the client read its answer."""
