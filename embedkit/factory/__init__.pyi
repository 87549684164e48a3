from .model import build as build
