import time, subprocess
from tests.chaos.venue_rig import Feed, VenueRig
from tests.rig import wait_for
def test_scratch(tmp_path, postgres_dsn, redis_url):
    with VenueRig(tmp_path, postgres_dsn, redis_url, accounts={"a": "kis", "b": "kis"}, feeds=[Feed(["a"], ["100000","100010"]), Feed(["b"], ["100020"])], connects_per_10min=100, connects_per_10min_address=1000) as rig:
        rig.start(rate=1000)
        rig.wait_received(500)
        for i in range(15):
            lost = rig.total("connections_lost")
            t = time.monotonic()
            rig.inject("abort@key-a")
            try:
                wait_for(lambda: rig.total("connections_lost") > lost, "lost", 2.0)
            except AssertionError:
                print("NOT NOTICED", i)
                pid = rig.pids("worker")[0]
                print(subprocess.run(["ss", "-tnpi"], capture_output=True, text=True).stdout)
                import os
                for fd in os.listdir(f"/proc/{pid}/fd"):
                    try: print(fd, os.readlink(f"/proc/{pid}/fd/{fd}"))
                    except OSError: pass
                print("" )
                for p in (pid, rig.simulator.pid):
                    import glob
                    for f in glob.glob(f"/proc/{p}/fdinfo/*"):
                        s = __import__("pathlib").Path(f).read_text()
                        if "tfd" in s: print(p, f, s)
                print(rig.tail(10)); print(sorted(os.listdir(rig.directory)))
                raise
            print(i, round(time.monotonic() - t, 3))
            wait_for(lambda: rig.total("subscriptions_confirmed") == rig.wanted, "back")
            rig.wait_received(200)
