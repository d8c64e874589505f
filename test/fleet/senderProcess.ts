// SPDX-License-Identifier: Apache-2.0
/** A sender in a process of its own, to be killed: it goes on with the campaign of a database. DATABASE PORT. */
import { nameOf, throughQueue } from '../../server/fleet/sender.ts'
import { runJobs } from '../../server/sessions/campaign.ts'
import { Database } from '../../server/sessions/database.ts'
import { sentStubs } from './stub.ts'

const [path = '', port] = process.argv.slice(2)
const database = new Database(path)
const campaign = database.campaign(1)
const connection = { host: '127.0.0.1', port: Number(port), db: 0 }
const say = (line: string) => console.error(`sender: ${line}`)
const runner = throughQueue(sentStubs('/nowhere'), { connection, campaign: nameOf(campaign), say, sweepMs: 500 })
await runJobs(database, campaign, runner, new AbortController().signal, ({ entry, seed }, { verdict }) =>
  console.log(`${entry.name} ${seed} ${verdict}`),
)
database.close()
