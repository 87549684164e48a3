"""Static encoders: model2vec's folders and those of the same layout."""
