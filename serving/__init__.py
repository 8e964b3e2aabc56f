"""The serving processes: no torch, no Faust. One feeder writes what any number of scoring processes map and read.

A request   server.py > api.py > rank_endpoint.py (exchange, admission, connection, exposure) > rank_request.py or
            binary.py > service.py > merger.py > answers.py; read_routes.py and lookups.py for everything else
The user    user_side.py (when, and the ladder) > user_states.py (kept ones), batches.py (together) > user_state.py >
            user_phase.py (the graph); deadline.py, calibration.py, upkeep.py
Candidates  retrieval.py, neighbours.py > scorer.py > kernels/ > post_processing.py
Versions    versions.py (a scoring process's), rollout.py (the feeder's), announcements.py, control.py (between them)
What is read    store.py over slab.py (rows of a version), rows_db.py with users.py and items.py (LMDB), progress.py
What writes it  processes.py > feeder.py > bootstrap.py, feed.py, state_upkeep.py > store_writer.py; state.py (folder)
Inside a slab   slab_file.py, id_index.py, places.py, epochs.py, readers.py, slab_kernel.py
Beside          explain.py and samples.py (`aif why`), stages.py and metrics.py, client.py, openapi.py, edge.py
"""
