"""The serving processes: no torch, no Faust. One feeder writes what any number of scoring processes map and read.

web/       a request: server.py > api.py > rank_endpoint.py (exchange, admission, connection, exposure) >
           rank_request.py or binary.py > ranking/service.py; read_routes.py and lookups.py for everything else
ranking/   service.py > merger.py > scorer.py > kernels/ > post_processing.py > answers.py; candidates from
           retrieval.py and neighbours.py; explain.py and samples.py (`aif why`)
user/      user_side.py (when, and the ladder) > user_states.py (kept ones), batches.py (together) > user_state.py >
           user_phase.py (the graph); calibration.py, upkeep.py
rollout/   versions.py (a scoring process's), flip.py (the feeder's), announcements.py, control.py (between them);
           after an answer shadow.py > shadow_scorer.py > shadow_board.py > feeding/shadow_reports.py
tables/    store.py over slab.py (rows of a version), rows_db.py with users.py and items.py (LMDB), progress.py;
           inside a slab slab_file.py, id_index.py, places.py, epochs.py, readers.py, slab_kernel.py; two_buffers.py
feeding/   processes.py > feeder.py > bootstrap.py, feed.py, state_upkeep.py > store_writer.py; state.py (folder)
kernels/   what a candidate costs, in C, numba and numpy
joining.py where parts of a model meet, and unlike ones are refused
Beside     stages.py, metrics.py and process_metrics.py, client.py, edge.py
"""
