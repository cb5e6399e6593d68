"""Loaders: image folders for classification, packed KITTI frames for depth. Data is never copied into the project."""
