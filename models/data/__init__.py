"""Data loaders: image folders for classification, packed KITTI frames for depth. The project contains no data."""
