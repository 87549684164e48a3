"""What the commands and functions of other libraries call our options and arguments.

Theirs are sentence-transformers' (`encode`, `mine_hard_negatives`, `semantic_search`), FlagEmbedding's, SimCSE's,
mteb's and optimum's. Names are compared as `peer_names.plain` has them. Recipes have a table of their own.
"""

from __future__ import annotations

from embedkit.config.peer_names import plain, turned

_OPTIONS = {
    "--model": "model_name_or_path model_name embedder_name_or_path embedding_model model_path",
    "--top-k": "k topk num_results hits",
    "--num-negatives": "negative_number negatives_num num_hard_negatives",
    "--sampling": "sampling_strategy",
    "--cross-encoder": "cross_encoder_name_or_path reranker reranker_name_or_path",
    "--query-prompt": "query_prompt_name query_instruction query_instruction_for_retrieval",
    "--corpus-prompt": "corpus_prompt_name passage_prompt passage_instruction_for_retrieval",
    "--corpus": "candidate_pool corpus_path corpus_file",
    "--prompt": "prompt_name instruction",
    "--pooling": "pooling_mode",
    "--max-length": "max_seq_length max_seq_len",
    "--device": "devices target_devices",
    "--dtype": "torch_dtype",
    "--format": "backend output_format",
    "--similarity": "score_function similarity_fn_name",
    "--seed": "random_seed",
    "--truncate-dim": "matryoshka_dim",
    "--limit": "max_samples",
}
_ARGUMENTS = {
    "model": "model model_name_or_path model_name model_path embedder_name_or_path",
    "models": "model model_name_or_path model_name model_path",
    "subject": "model model_name_or_path",
    "queries": "query queries q query_file",
    "folder": "index index_path index_file output output_dir",
    "pairs": "input_file dataset data train_data input_path",
    "source": "input_file corpus data input_path",
    "input": "input_file input_path sentences",
    "output": "output output_file output_path output_dir save_path",
    "file": "input_file data input_path",
}
_BATCH = "batches are filled by the lengths of texts, so that no size is needed"
_FAISS = "the search is exact and goes block by block: --block-size"
_ANSWERS = {
    "batch_size encode_batch_size eval_batch_size": _BATCH,
    "chunk_size corpus_chunk_size query_chunk_size": "an index is searched where it lies, in blocks that fit",
    "show_progress_bar progress_bar verbose quiet": "long work shows its progress in a terminal, and nowhere else",
    "normalize normalize_embeddings": "the model's folder says it; in Python it is model.encode(texts, normalize=True)",
    "convert_to_tensor convert_to_numpy output_value": "one vector a text is written, as .npy",
    "max_seq_length max_seq_len max_length": "the model's folder says it; in Python embedkit.load(MODEL, max_length=N)",
    "use_faiss faiss_batch_size use_gpu_for_searching use_gpu": _FAISS,
    "range_for_sampling": "ranks 2 to 200 are --range-min 2 --range-max 200",
    "output_format as_triplets": "a row has all negatives of its anchor; --one-per-row makes triplets, --as-list lists",
    "anchor_column_name positive_column_name": "they are told by --columns '{question: anchor, answer: positive}'",
    "include_positives": "each row has its positive beside the negatives",
    "safe_serialization framework export": "weights are written as safetensors, graphs with --format onnx",
    "opset task optimize": "--format onnx writes one graph, from token ids to the vector",
    "pooler pooler_type": "SimCSE's cls is --pooling pooler, cls_before_pooler is --pooling cls, avg --pooling mean",
    "output_folder output_dir": "--json FILE writes the scores, --mteb-results FOLDER those of mteb in its form",
    "task_set mode": "--suite sts, or --suite transfer, on the test split",
    "benchmark benchmarks task_types": "--suite mteb:NAME_OF_A_TASK",
    "zeroshot_data imagenet_val": "--suite zero-shot --data FOLDER",
}  # fmt: skip

OPTIONS = turned(_OPTIONS)
"""Their name, plain -> our options."""
ARGUMENTS = turned(_ARGUMENTS)
"""Their name, plain -> our arguments by name."""
ANSWERS = {plain(name): answer for names, answer in _ANSWERS.items() for name in names.split()}
"""Their name, plain -> what there is in its place."""
