"""A client in another language, made from the protos alone, does what the Rust tests do.

Usage: client.py HOST:PORT [HOST:PORT ...]. The directory with the generated modules must be on PYTHONPATH.
"""

import sys

import grpc
from mks.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc

DEADLINE_SECONDS = 10


def main(addresses):
    channels = [grpc.insecure_channel(address) for address in addresses]
    writer, reader = kv_pb2_grpc.KvStub(channels[0]), kv_pb2_grpc.KvStub(channels[-1])
    key = kv_pb2.Key(partition_key=b"from python")

    written = writer.Put(kv_pb2.PutRequest(key=key, value=b"\x00\xff value"), timeout=DEADLINE_SECONDS)
    assert written.acks >= 2, written
    found = reader.Get(kv_pb2.GetRequest(key=key), timeout=DEADLINE_SECONDS)
    assert found.version.value == b"\x00\xff value", found
    writer.Delete(kv_pb2.DeleteRequest(key=key), timeout=DEADLINE_SECONDS)
    try:
        reader.Get(kv_pb2.GetRequest(key=key), timeout=DEADLINE_SECONDS)
        raise AssertionError("a deleted key was found")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.NOT_FOUND, error

    puts = [
        kv_pb2.SessionOperation(
            id=i, put=kv_pb2.PutRequest(key=kv_pb2.Key(partition_key=b"session %d" % i), value=b"value %d" % i)
        )
        for i in range(100)
    ]
    answered = set()
    for response in writer.Session(iter([kv_pb2.SessionRequest(operations=puts)]), timeout=DEADLINE_SECONDS):
        for result in response.results:
            assert result.WhichOneof("result") == "written", result
            answered.add(result.id)
    assert answered == set(range(100)), answered

    status = admin_pb2_grpc.AdminStub(channels[0]).Status(admin_pb2.StatusRequest(), timeout=DEADLINE_SECONDS)
    assert status.ready, status
    check_reflection(channels[0])
    print("python client: fine")


def check_reflection(channel):
    """Tools such as grpcurl find services, messages and fields without any file."""
    from google.protobuf.descriptor_pool import DescriptorPool
    from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {"mks.v1.Kv", "mks.v1.Admin", "grpc.health.v1.Health"} <= services, services
    assert not any("Peer" in service for service in services), services
    put = DescriptorPool(database).FindServiceByName("mks.v1.Kv").FindMethodByName("Put")
    assert [field.name for field in put.input_type.fields] == ["key", "value", "options"], put.input_type


main(sys.argv[1:])
