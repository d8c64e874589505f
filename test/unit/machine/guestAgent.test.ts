// SPDX-License-Identifier: Apache-2.0
/** The host's end of the guest's agent. A guest says whatever it likes, which a real agent does not: so it is played here. */
import { once } from 'node:events'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { GuestAgent } from '../../../server/machine/guestAgent.ts'
import { ownFolder } from '../../../server/machine/scratch.ts'

let folder: ReturnType<typeof ownFolder>
let agent: GuestAgent
let guest: Socket
let heard = ''

beforeEach(async () => {
  folder = ownFolder(tmpdir(), 'agent-')
  const path = join(folder.path, 'agent')
  agent = await GuestAgent.listen(path)
  guest = connect(path)
  await once(guest, 'connect')
  heard = ''
  guest.setEncoding('latin1').on('data', text => {
    heard += text
  })
})
afterEach(() => {
  guest.destroy()
  agent.close()
  folder.remove()
})

/** What the host has sent, once it ends so. */
async function asked(end: string): Promise<string> {
  for (let i = 0; i < 500 && !heard.endsWith(end); i++) await sleep(2)
  return heard
}

describe('requests and answers', () => {
  test('a command: its output as it comes, then its exit code', async () => {
    const output: string[] = []
    const done = agent.run('ls /', (stream, chunk) => void output.push(`${stream} ${chunk}`))
    expect(await asked('ls /')).toBe('1 run 0 0 4\nls /')
    // In pieces, as a serial port has them.
    for (const piece of ['1 o', 'ut 0 0 5\nab', '\ncd1 err 0 0 2\nno1 exit 3 0 0\n']) {
      guest.write(piece)
      await sleep(5)
    }
    expect(await done).toBe(3)
    expect(output).toEqual(['stdout ab\ncd', 'stderr no'])
  })

  test('several commands at a time, and requests beside them', async () => {
    const said: string[] = []
    const one = agent.run('one', (_, chunk) => void said.push(`one ${chunk}`))
    const two = agent.run('two', (_, chunk) => void said.push(`two ${chunk}`))
    const page = agent.allocate(4096)
    await asked('3 allocate 4096 0 0\n')
    guest.write('2 out 0 0 1\nb3 done 1207959552 0 0\n1 out 0 0 1\na2 exit 0 0 0\n1 exit 1 0 0\n')
    expect(await Promise.all([one, two, page])).toEqual([1, 0, 0x4800_0000])
    expect(said).toEqual(['two b', 'one a'])
  })

  test('bytes, in both directions', async () => {
    const written = agent.write(0x4000_0000, Buffer.from('\0\n1 done'))
    expect(await asked('done')).toBe('1 write 1073741824 0 8\n\0\n1 done')
    guest.write('1 done 0 0 0\n')
    await written
    const read = agent.read(0x4000_0000, 3)
    await asked('2 read 1073741824 3 0\n')
    guest.write(Buffer.from([...Buffer.from('2 done 0 0 3\n'), 0, 10, 255]))
    expect(await read).toEqual(Buffer.from([0, 10, 255]))
  })

  test('what the guest cannot do is told', async () => {
    const page = agent.allocate(1 << 30)
    await asked('\n')
    guest.write('1 error 0 0 21\nmore than a huge page')
    await expect(page).rejects.toThrow('the guest: more than a huge page')
  })

  test('a command that nobody wants any more is killed', async () => {
    const stop = new AbortController()
    const done = agent.run('sleep 60', () => {}, stop.signal)
    await asked('sleep 60')
    stop.abort()
    expect(await asked('kill 0 0 0\n')).toMatch(/1 kill 0 0 0\n$/)
    guest.write('1 exit 137 0 0\n')
    expect(await done).toBe(137)
  })

  test('while somebody does not want more output, the guest waits', async () => {
    const gate = Promise.withResolvers<void>()
    let chunks = 0
    const done = agent.run('yes', () => {
      chunks++
      return gate.promise
    })
    await asked('yes')
    guest.write('1 out 0 0 1\ny1 out 0 0 1\ny1 exit 0 0 0\n')
    await sleep(30)
    expect(chunks).toBe(1)
    gate.resolve()
    expect(await done).toBe(0)
    expect(chunks).toBe(2)
  })

  test('ready comes once the agent has said so', async () => {
    guest.write('0 ready 0 0 0\n')
    await agent.ready
  })
})

describe('a guest that is not what it should be', () => {
  test.each([
    ['no number', 'x out 0 0 1\ny'],
    ['too few words', '1 out 0 0\n'],
    ['a length without bounds', '1 out 0 0 99999\n'],
    ['more than may come', '1 out 0 0 65537\n'],
    ['a negative length', '1 out 0 0 -1\n'],
    ['a line without an end', 'x'.repeat(500)],
    ['an exit code that would be cut to 0', '1 exit 256 0 0\n'],
    ['a number that has no exact value here', '1 done 9007199254740993 0 0\n'],
  ])('%s', async (_name, bytes) => {
    const done = agent.run('ls', () => {})
    await asked('ls')
    guest.write(bytes)
    await expect(done).rejects.toThrow("the guest's agent broke the protocol")
    await expect(agent.allocate(1)).rejects.toThrow("the guest's agent broke the protocol")
  })

  test('answers that nobody asked for are left alone', async () => {
    guest.write('7 done 0 0 0\n0 what 0 0 0\n8 out 0 0 2\nhi')
    const page = agent.allocate(1)
    await asked('\n')
    guest.write('1 done 4096 0 0\n')
    expect(await page).toBe(4096)
  })

  test('the machine ends: whatever waits is told', async () => {
    const [done, page] = [agent.run('ls', () => {}), agent.allocate(1)]
    await asked('0\n')
    guest.destroy()
    await expect(done).rejects.toThrow('the machine has ended')
    await expect(page).rejects.toThrow('the machine has ended')
    await expect(agent.ready).rejects.toThrow('the machine has ended')
  })

  test('a machine that never connects', async () => {
    const lonely = await GuestAgent.listen(join(folder.path, 'lonely'))
    const done = lonely.run('ls', () => {})
    lonely.close()
    await expect(done).rejects.toThrow('the machine has ended')
  })

  test('one that ends before it has connected; of one that has, all it said is still taken', async () => {
    const lonely = await GuestAgent.listen(join(folder.path, 'lonely'))
    lonely.ended()
    await expect(lonely.ready).rejects.toThrow('the machine has ended')
    const done = agent.run('ls', () => {})
    await asked('ls')
    agent.ended()
    guest.write('1 exit 5 0 0\n')
    expect(await done).toBe(5)
  })
})

test.each([
  ['no address', () => agent.free(-1)],
  ['no whole number', () => agent.allocate(0.5)],
  ['more than a message holds', () => agent.write(0, Buffer.alloc(65_537))],
  ['a command that is too long', () => agent.run('x'.repeat(65_537), () => {})],
])('what cannot be asked is not asked: %s', async (_name, ask) => {
  await expect(ask()).rejects.toThrow()
  expect(heard).toBe('')
})
