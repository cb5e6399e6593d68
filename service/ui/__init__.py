"""The web page at `/`: static files, without a build step, a framework or resources from other hosts."""
