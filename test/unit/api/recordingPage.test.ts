// SPDX-License-Identifier: Apache-2.0
/** A recording as a page: what of it could be markup or code is neither, and what is left out is said. */
import { createHash } from 'node:crypto'
import { get } from 'node:http'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { recordingPage } from '../../../server/api/recordingPage.ts'
import { servePage } from '../../../server/api/recordingServer.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { escaped } from '../../../server/trace/terminal.ts'
import { folder, header, recording, trap } from '../trace/synthetic.ts'

const fixture = fileURLToPath(new URL('../trace/recordings/6.12-nested.gz', import.meta.url))
const EVIL = '</script><script>alert(1)</script><!-- <script> "\' & \u2028'

/** What the page carries. */
const embedded = (html: string) =>
  [...html.matchAll(/<script type="application\/x-smmu-cosim-recording" data-about="([^"]*)">([^<]*)<\/script>/g)].map(
    ([, about = '', data = '']) => ({
      about: JSON.parse(Buffer.from(about, 'base64').toString()) as { name: string; cut?: string },
      bytes: gunzipSync(Buffer.from(data, 'base64')),
    }),
  )

test('the recording comes back whole, and is the only data in the page', async () => {
  const reader = TraceReader.open(fixture)
  const { html, cut } = await recordingPage([{ name: 'a', reader }], 64 << 20, () => {})
  expect(cut).toEqual([undefined])
  const [one, ...rest] = embedded(html)
  expect(rest).toEqual([])
  expect(one?.about).toEqual({ name: 'a' })
  const again = TraceReader.of('a', one?.bytes ?? new Uint8Array())
  expect([...again.records()]).toEqual([...reader.records()])
  expect(again.header).toEqual(reader.header)
  expect(again.problems).toEqual([])
})

test('names and texts of a recording are no markup and no code', async () => {
  const path = join(folder(), 'trace')
  await recording(
    path,
    (writer, pump) => {
      writer.reset(0, 0, 1, 1)
      pump.console(EVIL)
      writer.trap({ ...trap, seq: 1 }, 10, 3, 5, 0)
    },
    { header: { ...header, kernel: EVIL, policy: EVIL } },
  )
  const reader = TraceReader.open(path)
  const { html } = await recordingPage([{ name: EVIL, reader }], 64 << 20, () => {})
  const [one] = embedded(html)
  expect(one?.about.name).toBe(EVIL)
  // One script runs, the one that the policy of the page lets in.
  const scripts = [...html.matchAll(/<script>([\s\S]*?)<\/script>/g)].map(([, code = '']) => code)
  expect(scripts).toHaveLength(1)
  const hash = createHash('sha256')
    .update(scripts[0] ?? '')
    .digest('base64')
  const [, policy = ''] = /<meta http-equiv="Content-Security-Policy" content="([^"]*)">/.exec(html) ?? []
  expect(policy).toContain(`script-src 'sha256-${hash}'`)
  expect(policy).toContain("default-src 'none'")
  expect(policy).not.toMatch(/unsafe|connect-src|https?:/)
  expect(html.replaceAll(scripts[0] ?? '', '')).not.toContain('alert(1)')
  // Standard output, which may be a terminal, shows it as it is: else it would not be the script of the policy.
  expect(escaped(html)).toBe(html)
})

test('what does not fit is left out, and said', async () => {
  const path = join(folder(), 'trace')
  await recording(
    path,
    async (writer, pump) => {
      writer.reset(0, 0, 1, 1)
      for (let seq = 1; seq <= 12_000; seq++) {
        writer.trap({ ...trap, seq }, seq * 1000, 300, 5000, 0)
        if (seq % 500 === 0) pump.drain()
      }
    },
    { ring: 1 << 22 },
  )
  const { html, cut } = await recordingPage([{ name: 'long', reader: TraceReader.open(path) }], 1 << 18, () => {})
  const [last = 0] = cut
  expect(last).toBeGreaterThan(1000)
  expect(last).toBeLessThan(12_000)
  const [one] = embedded(html)
  expect(one?.about.cut).toContain(`up to trap ${last}`)
  const seqs = [...TraceReader.of('long', one?.bytes ?? new Uint8Array()).records()].flatMap(record =>
    record.kind === 'trap' ? [record.seq] : [],
  )
  expect(seqs.at(-1)).toBe(last)
})

test('the server of a page has that page and nothing else, for whoever asks for it by its own name', async () => {
  const server = await servePage('<p>page</p>', 0)
  const ask = (path: string, headers: Record<string, string> = {}) =>
    new Promise<{ status: number | undefined; text: string }>((resolve, reject) => {
      get(new URL(path, server.url), { headers, agent: false }, response => {
        let text = ''
        response.on('data', chunk => {
          text += chunk
        })
        response.on('end', () => resolve({ status: response.statusCode, text }))
      }).on('error', reject)
    })
  try {
    expect(await ask('/')).toEqual({ status: 200, text: '<p>page</p>' })
    expect((await ask('/api/v1/machine')).status).toBe(404)
    expect((await ask('/', { host: 'evil.example' })).status).toBe(403)
    expect((await ask('/', { origin: 'http://evil.example' })).status).toBe(403)
    await expect(servePage('', Number(new URL(server.url).port))).rejects.toThrow('is in use')
  } finally {
    await server.close()
  }
})
