"""Prediction for many pictures or a video: writes drawings and results in bounded memory."""
