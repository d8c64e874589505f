// SPDX-License-Identifier: Apache-2.0
import { describe, expect, test } from 'vitest'
import { chooseMirror, sourcesList } from '../../../scripts/setup/apt.ts'

const inRelease = (...uris: string[]) => uris.map(uri => `'${uri}/InRelease' some_file_name 0 `).join('\n')

describe('the mirror of the machine', () => {
  test('is the one that holds the release itself', () => {
    const printed = inRelease(
      'http://security.debian.org/debian-security/dists/bookworm-security',
      'http://mirror.example/debian/dists/bookworm-updates',
      'http://ftp.example/debian/dists/bookworm',
    )
    expect(chooseMirror(printed)).toBe('http://ftp.example/debian')
  })

  test('is not an archive of somebody else', () => {
    const printed = inRelease(
      'https://packages.example/repos/tools/dists/stable',
      'https://download.example/linux/debian/dists/trixie',
      'https://mirror.example/debian/dists/trixie',
    )
    expect(chooseMirror(printed)).toBe('https://mirror.example/debian')
  })

  test('may be configured with a trailing slash, a port and a longer path', () => {
    expect(chooseMirror(inRelease('http://cache.example:3142/debian//dists/bookworm'))).toBe(
      'http://cache.example:3142/debian',
    )
    expect(chooseMirror(inRelease('http://cache.example/apt/debian/dists/trixie'))).toBe(
      'http://cache.example/apt/debian',
    )
  })

  test('must be configured: nothing is fetched from a place that nobody chose', () => {
    expect(() => chooseMirror('')).toThrow('no Debian archive configured')
  })
})

test('the private sources name keyring, mirror and suite, for packages and sources', () => {
  expect(sourcesList('http://ftp.example/debian', 'trixie', '/keys/debian.gpg')).toBe(
    'deb [signed-by=/keys/debian.gpg target=Packages] http://ftp.example/debian trixie main\n' +
      'deb-src [signed-by=/keys/debian.gpg target=Sources] http://ftp.example/debian trixie main\n',
  )
})
