"""A tf.data service as a program: the dispatcher, or a worker if a dispatcher is given."""

import sys

import tensorflow as tf

service = tf.data.experimental.service
port, dispatcher = int(sys.argv[1]), sys.argv[2:]
if dispatcher:
    server = service.WorkerServer(
        service.WorkerConfig(dispatcher[0], worker_address=f"localhost:{port}", port=port)
    )
else:
    server = service.DispatchServer(service.DispatcherConfig(port=port))
print("the service is up", flush=True)
server.join()
