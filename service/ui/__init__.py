"""The page at `/`: static, without a build step, a framework or anything from another host."""
