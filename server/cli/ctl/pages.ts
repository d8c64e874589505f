// SPDX-License-Identifier: Apache-2.0
/** Guest memory: who owns a page, who reaches it, what is in it. */
import type { Command } from 'commander'
import type { Body } from '../../api/schemas/contract.ts'
import { EXIT } from '../exit.ts'
import { type Add, address, bytes, integer, list, type OnSmmu, onSmmu } from './command.ts'

const range = (command: Command): Command =>
  command
    .requiredOption('--base <address>', 'guest physical address', address)
    .requiredOption('--size <bytes>', 'bytes, K, M or G', bytes)
    .requiredOption('--vm <id>', 'protected VM', integer)

export function pageCommands(add: Add): void {
  for (const [what, description] of [
    ['donate', 'give pages of the host to a protected VM'],
    ['reclaim', 'take pages back, zeroed'],
  ] as const) {
    add<Body<'POST /memory/donate'>>(what, description, range, async (client, body) => {
      const answer = await client.call(`POST /memory/${what}`, { body })
      client.print(answer, ({ result }) => result)
      if (!answer.ok) process.exitCode = EXIT.failed
    })
  }
  add<{ readonly from?: string; readonly to?: string }>(
    'ownership',
    'who owns the pages of a range',
    command => command.option('--from <address>', 'start', address).option('--to <address>', 'end', address),
    async (client, { from, to }) => {
      client.print(await client.call('GET /memory/ownership', { query: { from, to } }), ({ ranges }) =>
        list(
          ranges,
          ({ base, size, state, vm }) =>
            `${base.padEnd(14)} ${String(size / 1024).padStart(10)} KiB  ${state}${vm ? ` ${vm}` : ''}`,
        ),
      )
    },
  )
  add<OnSmmu>(
    'reach',
    'what devices reach: pages that stage 1 of each stream maps',
    onSmmu,
    async (client, { smmu }) => {
      client.print(await client.call('GET /memory/reach', { query: { smmu } }), streams =>
        list(streams, ({ sid, config, mapped }) =>
          [
            `0x${sid.toString(16)} ${config}`,
            ...mapped.map(m => `  ${m.iova.padEnd(18)} → ${m.base.padEnd(14)} ${m.size / 1024} KiB`),
          ].join('\n'),
        ),
      )
    },
  )
  add<{ readonly length: number }>(
    'memory <address>',
    'guest memory',
    command => command.option('--length <bytes>', 'bytes', bytes, 256),
    async (client, { length }, [at = '']) => {
      const answer = await client.call('GET /memory/bytes', { query: { address: at, length } })
      client.print(answer, ({ address, bytes }) => dump(Number(address), Buffer.from(bytes, 'hex')))
    },
  )
}

/** Sixteen bytes a line, with what is printable of them. */
function dump(address: number, bytes: Buffer): string {
  const lines = []
  for (let i = 0; i < bytes.length; i += 16) {
    const part = bytes.subarray(i, i + 16)
    const words = part.toString('hex').replace(/(.{8})(?=.)/g, '$1 ')
    const text = part.toString('latin1').replace(/[^\x20-\x7e]/g, '.')
    lines.push(`${(address + i).toString(16).padStart(12)}  ${words.padEnd(36)} ${text}`)
  }
  return lines.join('\n')
}
