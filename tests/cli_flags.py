"""Every flag of PaddleDetection's four tools, of release 0.5 and 2.7: (tool, flag, value that a user would give)."""

FLAGS = [
    *(("train", flag, value) for flag, value in (
        ("-r", "auto"), ("--resume", "auto"), ("--resume_checkpoint", "auto"), ("--fp16", None),
        ("--loss_scale", "8"), ("--eval", None), ("--output_eval", "x"), ("--use_vdl", "True"), ("--vdl_log_dir", "x"),
        ("--enable_ce", "True"), ("--is_profiler", "1"), ("--profiler_path", "x"), ("--slim_config", "x"),
        ("--amp", None), ("--fleet", None), ("--use_wandb", "True"), ("--save_prediction_only", None),
        ("--profiler_options", "x"), ("--save_proposals", None), ("--proposals_path", "x"), ("--to_static", None),
    )),
    *(("eval", flag, value) for flag, value in (
        ("--json_eval", None), ("-f", "x"), ("--output_eval", "x"), ("--slim_config", "x"), ("--bias", None),
        ("--classwise", None), ("--save_prediction_only", None), ("--amp", None), ("--slice_infer", None),
        ("--slice_size", "640"), ("--overlap_ratio", "0.25"), ("--combine_method", "nms"), ("--match_threshold", "0.6"),
        ("--match_metric", "ios"),
    )),
    *(("infer", flag, value) for flag, value in (
        ("--infer_dir", "x"), ("--infer_list", "x"), ("--infer_img", "x"), ("--output_dir", "x"),
        ("--draw_threshold", "0.5"), ("--save_threshold", "0.5"), ("--slim_config", "x"), ("--use_vdl", "True"),
        ("--do_eval", "True"), ("--vdl_log_dir", "x"), ("--save_results", "True"), ("--slice_infer", None),
        ("--slice_size", "640"), ("--overlap_ratio", "0.25"), ("--combine_method", "nms"), ("--match_threshold", "0.6"),
        ("--match_metric", "ios"), ("--visualize", "False"), ("--rtn_im_file", "True"),
    )),
    *(("export", flag, value) for flag, value in (
        ("--output_dir", "x"), ("--exclude_nms", None), ("--export_serving_model", "True"), ("--slim_config", "x"),
        ("--for_fd", None),
    )),
]  # fmt: skip
