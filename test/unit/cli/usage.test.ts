// SPDX-License-Identifier: Apache-2.0
/** What the command line does not understand, or cannot mean, is told from what failed by its exit code. */
import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { type AddressInfo, createServer } from 'node:net'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { cosim } from '../../boot/cli.ts'

const MAIN = fileURLToPath(new URL('../../../server/cli/main.ts', import.meta.url))

function run(...args: readonly string[]) {
  const { status, stderr } = spawnSync(process.execPath, [MAIN, ...args], { encoding: 'utf8' })
  return { status, stderr }
}

test.each<[string, RegExp]>([
  ['nonsense', /unknown command/],
  ['boot --nonsense', /unknown option/],
  ['boot --smp 0', /expected a whole number from 1 to 64/],
  ['boot --storm 3', /--storm: only with --el2/],
  ['boot --kernel /none', /no such file/],
  ['boot --policy /none.ts', /does not exist/],
  ['boot --memory 1G --carveout 1G', /more than half/],
  ['boot --baseline --faults sync-hangs', /--faults: they need the server of this run/],
  ['boot --faults no-such-fault', /--faults: /],
  ['boot --token-file /none', /--token-file: only with a server that runs elsewhere/],
  ['boot --server /none --token-file /none', /--token-file .none: ENOENT/],
  ['dev --listen /none/x --ram-dir /none', /--ram-dir .none: no such folder/],
  ['serve --policy /none', /no such file/],
  ['serve --port x', /expected a port/],
  ['trace show', /missing required argument/],
  ['walk --at 3 --sid 1 --iova 0', /is for a walk of a recording/],
  ['ctl --url x status', /not a URL/],
  ['ctl wait nowhere', /no phase nowhere/],
  ['faults run', /missing required argument/],
  ['attack --hardware x', /there is no "x"/],
  ['fuzz --only x', /there is no "x"/],
  ['bench --only x', /there is no "x"|is invalid/],
])('%s: 2', (command, message) => {
  const { status, stderr } = run(...command.split(' '))
  expect(stderr).toMatch(message)
  expect(status).toBe(2)
})

test.each([['trace show /dev/null'], ['ctl --url http://127.0.0.1:1/ status']])(
  'what is understood and fails is 1: %s',
  command => expect(run(...command.split(' ')).status).toBe(1),
)

test.each([['--help'], ['boot --help']])('asking for help is no mistake: %s', command =>
  expect(run(...command.split(' ')).status).toBe(0),
)

test.each([
  ['serve', '--port'],
  ['boot', '--dashboard'],
])('%s, where somebody else listens: %s says where, and the message says so', async (command, option) => {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address() as AddressInfo
  const { code, stderr } = await cosim([command, option, String(port)])
  server.close()
  expect(stderr).toContain(`127.0.0.1:${port} is in use: choose another ${option} (0: any)`)
  expect(code).toBe(1)
})
